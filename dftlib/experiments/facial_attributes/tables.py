"""The tables of notebooks 07 to 09, from what `robustness` measures; percent, with 95 % intervals."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr, ttest_rel
from torch import Tensor

from dftlib import paths
from dftlib.experiments.facial_attributes.robustness import TAU, AttributeLab, adversarial, loss_of, predictions, scores
from dftlib.experiments.outcome import beside_simple
from dftlib.metrics import classification, similarity
from dftlib.models import attribute_networks
from dftlib.perturbation import per_image
from dftlib.perturbation.per_image import SEARCHES
from dftlib.plots.facial_attributes import Flipped
from dftlib.progress import tqdm
from dftlib.seeds import rng

APPROACHES = {
    ("euclidean", "converged"): "Separate networks (Euclidean)",
    ("softmax", "converged"): "Separate networks (softmax)",
    ("euclidean", "two_epochs"): "Separate networks (Euclidean) after two epochs",
    ("softmax", "two_epochs"): "Separate networks (softmax) after two epochs",
    ("moon", "converged"): "MOON",
    ("moon_balanced", "converged"): "MOON, domain-balanced",
}
TRIVIAL = "Trivial (majority class)"
SEPARATE = APPROACHES["euclidean", "converged"]


def _percent(name: str, share: float, ends: tuple[float, float]) -> dict[str, float]:
    """A share and its interval, in percent."""
    return {f"{name}{end}": 100 * float(value) for end, value in zip(("", "_lo", "_hi"), (share, *ends), strict=True)}


def _beside(rows: list[dict[str, Any]], name: str, on: list[str]) -> pd.DataFrame:
    """The rows with the paper's numbers as `published_…`."""
    paper = pd.read_csv(paths.published(name))
    return pd.DataFrame(rows).merge(paper.rename(columns={c: f"published_{c}" for c in paper if c not in on}), on=on, how="left")


def wrong(lab: AttributeLab) -> dict[str, NDArray[np.bool_]]:
    """For each approach, which attributes of which test images it gets wrong (equation 2): n x attributes."""
    truth, train = (lab.signs(lab.rows(part)).numpy() > 0 for part in ("test", "train"))
    found = {name: lab.test_predictions(*which) for which, name in APPROACHES.items()}
    return {name: present != truth for name, present in found.items()} | {TRIVIAL: (train.mean(0) > 0.5) != truth}


def errors(lab: AttributeLab) -> pd.DataFrame:
    """Figure 2: a row an attribute and approach; percent of test images with Wilson intervals, attributes by `SEPARATE`.

    `balanced_error` is the mean of the errors among present and among absent, which the majority class can't win by.
    `epoch` is that of the snapshot, counted from 1.
    """
    truth = lab.signs(lab.rows("test")).numpy() > 0
    epochs = {name: _epochs(lab, *which) for which, name in APPROACHES.items()} | {TRIVIAL: [0] * len(lab.names)}
    rows: list[dict[str, Any]] = []
    for approach, errs in wrong(lab).items():
        for i, attribute in enumerate(lab.names):
            both = np.mean([errs[truth[:, i] == value, i].mean() for value in (False, True)])
            row = {"attribute": attribute, "approach": approach, "n_test": len(errs), "epoch": epochs[approach][i]}
            rows.append({**row, **classification.in_percent("error", errs[:, i]), "balanced_error": 100 * float(both)})
    table = pd.DataFrame(rows)
    order = table[table["approach"] == SEPARATE].sort_values("error", kind="stable")["attribute"].tolist()
    table = table.sort_values("approach", kind="stable")
    return table.sort_values("attribute", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def _epochs(lab: AttributeLab, kind: str, snapshot: str) -> list[int]:
    """The epoch of each attribute's snapshot."""
    early = attribute_networks.EARLY
    if snapshot == "two_epochs":
        return [early] * len(lab.names)
    best = [(lab.trained(kind, group)["errors"][early - 1 :].argmin(0), len(group)) for group in lab.groups(kind)]
    return [int(epoch) + early for epochs, count in best for epoch in epochs.expand(count)]  # MOON has one for all


def error_tests(lab: AttributeLab) -> pd.DataFrame:
    """Sections 2.3 and 5: mean error of each approach and its difference from `SEPARATE`, percent.

    `t_test_p` is the paper's, a two-sided paired t-test over attributes; it takes attributes for a sample of all attributes there
    might be. The interval of the difference is that of a bootstrap over people, for these attributes.
    """
    every = wrong(lab)
    drawn = classification.people_drawn(lab.faces.subjects[lab.rows("test")])
    rows = []
    for name, errs in every.items():
        difference = errs.mean(1) - every[SEPARATE].mean(1)
        ends = [classification.interval(classification.share(values, drawn)) for values in (errs.mean(1), difference)]
        rows.append({
            "approach": name, **_percent("mean_error", errs.mean(), ends[0]),
            **_percent("difference", difference.mean(), ends[1] if name != SEPARATE else (np.nan, np.nan)),
            "t_test_p": float(ttest_rel(errs.mean(0), every[SEPARATE].mean(0)).pvalue),
        })  # fmt: skip
    paper = pd.read_csv(paths.published("attribute_error")).set_index("approach")["mean_error"]
    table = pd.DataFrame(rows)
    return table.assign(published=table["approach"].map(paper)).sort_values("mean_error", kind="stable", ignore_index=True)


SERIES = (  # loss as Table 1 names it, type, kind, method
    ("Euclidean", "FGS", "euclidean", "fgs"),
    ("Euclidean", "FFA", "euclidean", "ffa"),
    ("Euclidean", "MFFA", "moon", "ffa"),
    ("Softmax", "FGS", "softmax", "fgs"),
    ("Softmax", "FFA", "softmax", "ffa"),
)
ATTACK = ["loss", "adversarial_type", "mode"]
TAUS = (0.0, 0.9, 0.95, 0.99)  # thresholds on PASS; 0 stands for any image whose class flipped


def _signs(found: dict[str, Tensor]) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    """Which predictions were right before (+), and which wrong (-): bool n x attributes."""
    return ("+", found["right"]), ("-", ~found["right"])


def flippability(lab: AttributeLab) -> pd.DataFrame:
    """Table 1: of the attributes that a network gets right (+) or wrong (-), the percentage flipped at each PASS threshold.

    Intervals are of a bootstrap over people. `published_…` is the paper's.
    """
    drawn = classification.people_drawn(lab.faces.subjects[lab.sample])
    rows = []
    for (loss, kind_of, kind, method), (search, mode) in product(SERIES, SEARCHES.items()):
        found = lab.flips(kind, method, search)
        for sign, of in _signs(found):
            row: dict[str, Any] = {"loss": loss, "adversarial_type": kind_of + sign, "mode": mode}
            for tau in TAUS:
                hit = adversarial(found, tau) & of
                with np.errstate(invalid="ignore"):  # a draw may hold no such prediction
                    many = drawn @ hit.sum(1).double().numpy() / (drawn @ of.sum(1).double().numpy())
                row |= _percent(f"pass_{100 * tau:.0f}", float(hit[of].double().mean()), classification.interval(many))
            rows.append({**row, "total": int(of.sum())})
    return _beside(rows, "robustness_flippability", ATTACK)


def beyond(lab: AttributeLab) -> pd.DataFrame:
    """Where FGS fails on Euclidean networks: right answers by whether their score lies beyond the label (|f| > 1).

    There the loss (f - y)^2 falls on the way to the boundary, so equation 7, which raises it, leads away. `n` answers, and the
    percentage of them whose class flips, at any PASS.
    """
    images, y = lab.faces.images[lab.sample], lab.signs(lab.sample)
    towards = torch.cat([scores(net, images) for net in lab.networks("euclidean")], 1) * y
    rows: dict[str, dict[str, Any]] = {"between 0 and its label": {}, "beyond its label": {}}
    for method, (search, mode) in product(("fgs", "ffa"), SEARCHES.items()):
        found = lab.flips("euclidean", method, search)
        for row, of in zip(rows.values(), (towards <= 1, towards > 1), strict=True):
            row["n"] = int((of & found["right"]).sum())
            row[f"{method.upper()}, {mode}"] = 100 * float(found["flipped"][of & found["right"]].double().mean())
    return pd.DataFrame([{"score": name, **row} for name, row in rows.items()])


def success(lab: AttributeLab) -> pd.DataFrame:
    """Figure 3: a row an attribute, series and search; percent of the images with that attribute right (+) or wrong (-).

    Attributes are in the order of FGS+ by line-search. `n` counts those images; an attribute without any has no share.
    """
    rows = []
    for (_, kind_of, kind, method), (search, mode) in product(SERIES[:3], SEARCHES.items()):
        found = lab.flips(kind, method, search)
        for (sign, of), (i, attribute) in product(_signs(found), enumerate(lab.names)):
            hit = adversarial(found)[of[:, i], i].numpy()
            row = {"attribute": attribute, "adversarial_type": kind_of + sign, "mode": mode, "n": len(hit)}
            rows.append({**row, **classification.in_percent("success", hit)})
    table = pd.DataFrame(rows)
    first = table[(table["adversarial_type"] == "FGS+") & (table["mode"] == SEARCHES["line"])]
    order = first.sort_values("success", kind="stable", ascending=False)["attribute"].tolist()
    return table.sort_values("attribute", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def progress(lab: AttributeLab) -> pd.DataFrame:
    """Table 2: adversarial instances by line-search after two epochs, after convergence, and at both; with the paper's.

    `share_…` is the percentage of the attributes right (+) or wrong (-) then. `learned`: of the instances after two epochs that
    are none after convergence, the percentage that the converged network classifies correctly.
    """
    rows = []
    for loss, kind_of, kind, method in (series for series in SERIES if series[2] != "moon"):
        early, late = (lab.flips(kind, method, "line", snapshot) for snapshot in ("two_epochs", "converged"))
        for (sign, was), (_, of) in zip(_signs(early), _signs(late), strict=True):
            then, now = adversarial(early) & was, adversarial(late) & of
            gone = then & ~now
            rows.append({
                "loss": loss, "adversarial_type": kind_of + sign, "pictures": len(of),
                "two_epochs": int(then.sum()), "converged": int(now.sum()), "overlap": int((then & now).sum()),
                "share_two_epochs": 100 * int(then.sum()) / (int(was.sum()) or np.nan),
                "share_converged": 100 * int(now.sum()) / (int(of.sum()) or np.nan),
                "learned": 100 * float(late["right"][gone].double().mean()),
            })  # fmt: skip
    return _beside(rows, "robustness_progress", ["loss", "adversarial_type"])


def others(lab: AttributeLab, kind: str, search: str, snapshot: str = "converged") -> pd.DataFrame:
    """Figures 4 and 5: of the adversarial images made by FFA for the attribute of a column, the percentage that changes the
    answer of a row's: on the converged separate networks (`kind` 'euclidean', made at `snapshot`), or on MOON. Empty: none made.
    """
    found = lab.flips(kind, "ffa", search, snapshot)
    made = adversarial(found)
    changed = (found["others"] & made[:, :, None]).sum(0).T.double()  # tested x made for
    share = 100 * changed / made.sum(0).double()  # 0 / 0 is nan
    return pd.DataFrame(share.numpy(), index=pd.Index(lab.names, name="attribute"), columns=lab.names)


def universal(lab: AttributeLab) -> pd.DataFrame:
    """What one perturbation N for all does to each separate network on test images, beside FFA's own for every mistake.

    Percent: `natural`, of the mistakes those that FFA sets right at PASS 0.95 (natural adversarial samples, section 3.2);
    `set_right`, of the mistakes, and `natural_set_right`, of the natural ones, those that N sets right; `broken`, of the right
    ones those that N turns wrong; before, after and rise as `Comparison.row`; `bound`, the accuracy if every natural sample
    were set right and nothing broken; `threshold`, that of the best decision threshold of the fitting images, without N.
    `psnr` (dB) and `pass` are means over test images with N. `recommended`: as `Comparison.why_not` has it of validation images.
    """
    rows = []
    for i, attribute in enumerate(tqdm(lab.names, desc="universal perturbations", unit="attribute")):
        found, (fit, val, test) = lab.universal(i), lab.splits(i)
        both = {name: torch.stack([1 - s, s], 1) for name, s in found.items() if name.endswith(("_before", "_after"))}
        chosen, measured = (
            beside_simple(both[f"{name}_before"], both[f"{name}_after"], split, both["train_before"], fit)
            for name, split in (("val", val), ("test", test))
        )
        was, after = measured.right["before"], measured.right["after"]
        natural = (found["ffa"] & (found["ffa_pass"] >= TAU)).numpy()
        shares = {"natural": natural, "set_right": after[~was], "natural_set_right": after[~was][natural], "broken": ~after[was]}
        row: dict[str, Any] = {"attribute": attribute, "mistakes": int((~was).sum()), "n_test": len(test)}
        for name, which in shares.items():
            row |= classification.in_percent(name, which)
        rows.append({
            **row, **measured.row(), "bound": 100 * float((was.sum() + natural.sum()) / len(test)),
            "threshold": measured.accuracy("moving the threshold"),
            "psnr": float(found["psnr"].mean()), "pass": float(found["pass"].mean()), "recommended": chosen.recommended,
        })  # fmt: skip
    return pd.DataFrame(rows)


def related(lab: AttributeLab, matrices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How well each matrix of `others` follows the training labels: Spearman's rank correlation, over the `pairs` of different
    attributes that have a share, of the share of answers changed with the absolute correlation of the two labels.

    Intervals are of a bootstrap over the attributes that the images were made for. `elsewhere` is the mean share, percent.
    """
    count = len(lab.names)
    alike = np.abs(np.corrcoef(lab.signs(lab.rows("train")).numpy().T))
    rows = []
    for name, matrix in matrices.items():
        share = np.where(np.eye(count, dtype=bool), np.nan, matrix.to_numpy(float))

        def follows(columns: NDArray[np.int64], share: NDArray[np.float64] = share) -> float:
            pairs = np.isfinite(share[:, columns])
            if not np.ptp(share[:, columns][pairs]):
                return np.nan  # nothing moved, so nothing is related
            return float(spearmanr(share[:, columns][pairs], alike[:, columns][pairs]).statistic)

        draw = rng("related")
        low, high = classification.interval(np.array([follows(draw.integers(count, size=count)) for _ in range(1000)]))
        row = {"matrix": name, "pairs": int(np.isfinite(share).sum()), "elsewhere": float(np.nanmean(share))}
        rows.append({**row, "follows": follows(np.arange(count)), "follows_lo": low, "follows_hi": high})
    return pd.DataFrame(rows)


def examples(lab: AttributeLab) -> list[Flipped]:
    """Figure 1: a natural adversarial sample set right on a separate network, and an attribute flipped on MOON, by both searches.

    The first of the sampled images whose line-search perturbation is adversarial, for the attribute with the most of them.
    """
    shown: list[Flipped] = []
    for search, (kind, wanted) in product(SEARCHES, (("euclidean", "-"), ("moon", "+"))):
        found = lab.flips(kind, "ffa", "line")
        hits = adversarial(found) & dict(_signs(found))[wanted]
        i, loss = int(hits.sum(0).argmax()), loss_of(kind)
        row = lab.sample[[int(hits[:, i].byte().argmax())]]
        (net, output), y, before = lab.network(kind, i), lab.signs(row)[:, i], torch.from_numpy(lab.faces.images[row])
        made = per_image.flip(net, before, y, "ffa", search, loss, output).images
        changed = (predictions(net, before, loss) != predictions(net, made, loss))[0]
        also = [name for j, name in enumerate(lab.names) if kind == "moon" and changed[j] and j != i]
        truth, fate = "present" if y > 0 else "absent", "right, flipped" if wanted == "+" else "wrong, set right"
        where = "MOON" if kind == "moon" else "separate network"
        caption = f"{where}, {SEARCHES[search]}: PASS {float(similarity.pass_score(before, made)):.4f}"
        caption += "".join(f"\nalso flipped: {name}" for name in also[:2])
        caption += f" and {len(also) - 2} more" if len(also) > 2 else ""
        shown.append(Flipped(f"({'abcd'[len(shown)]}) {lab.names[i]}, {truth}: {fate}", before[0], made[0], caption))
    return shown
