"""The tables of notebooks 07 to 09, from what `robustness` measures; percent, with 95 % intervals."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr, ttest_rel

from dftlib import attributes, evaluation, flipping, robustness, similarity
from dftlib.attribute_figures import Flipped
from dftlib.config import ROOT, Profile, rng
from dftlib.progress import tqdm
from dftlib.robustness import (
    SEARCHES,
    TAU,
    TAUS,
    adversarial,
    answers,
    faces,
    flips,
    groups,
    loss_of,
    names,
    networks,
    of_attribute,
    rows_of,
    sample,
    scores,
    signs,
    test_answers,
    trained,
    universal_rows,
)

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


def _percent(name: str, which: NDArray[np.bool_]) -> dict[str, float]:
    """The share of `which`, percent, with its Wilson interval; empty where there is nothing to share."""
    low, high = evaluation.wilson(which) if len(which) else (np.nan, np.nan)
    share = float(which.mean()) if len(which) else np.nan
    return {name: 100 * share, f"{name}_lo": 100 * low, f"{name}_hi": 100 * high}


def _by_attribute(table: pd.DataFrame, order: list[str], *then: str) -> pd.DataFrame:
    """The rows with their attributes in this order."""
    placed = table.assign(place=table["attribute"].map(order.index)).sort_values(["place", *then], kind="stable")
    return placed.drop(columns="place").reset_index(drop=True)


def _beside(rows: list[dict[str, Any]], name: str, on: list[str]) -> pd.DataFrame:
    """The rows with the paper's numbers, results/published/NAME.csv, as `published_…`."""
    paper = pd.read_csv(ROOT / "results" / "published" / f"{name}.csv")
    return pd.DataFrame(rows).merge(paper.rename(columns={c: f"published_{c}" for c in paper if c not in on}), on=on, how="left")


@cache
def wrong(profile: Profile) -> dict[str, NDArray[np.bool_]]:
    """For each approach, which attributes of which test pictures it gets wrong (equation 2): n x attributes."""
    truth, train = (signs(profile, rows_of(profile, split)).numpy() > 0 for split in ("test", "train"))
    said = {name: test_answers(profile, *which) for which, name in APPROACHES.items()}
    return {name: found != truth for name, found in said.items()} | {TRIVIAL: (train.mean(0) > 0.5) != truth}


def errors(profile: Profile) -> pd.DataFrame:
    """Figure 2: a row an attribute and approach; percent of test pictures with Wilson intervals, attributes by `SEPARATE`.

    `balanced_error` is the mean of the errors among present and among absent, which the majority class can't win by.
    `epoch` is that of the snapshot, counted from 1.
    """
    truth = signs(profile, rows_of(profile, "test")).numpy() > 0
    epochs = {name: _epochs(profile, *which) for which, name in APPROACHES.items()}
    rows: list[dict[str, Any]] = []
    for approach, errs in wrong(profile).items():
        for i, attribute in enumerate(names(profile)):
            both = np.mean([errs[truth[:, i] == value, i].mean() for value in (False, True)])
            row: dict[str, Any] = {"attribute": attribute, "approach": approach, "n_test": len(errs)}
            row["epoch"] = epochs.get(approach, [0] * len(names(profile)))[i]
            rows.append({**row, **_percent("error", errs[:, i]), "balanced_error": 100 * float(both)})
    table = pd.DataFrame(rows)
    own = table[table["approach"] == SEPARATE].sort_values("error", kind="stable")
    return _by_attribute(table, own["attribute"].tolist(), "approach")


def _epochs(profile: Profile, kind: str, snapshot: str) -> list[int]:
    """The epoch of each attribute's snapshot."""
    every = names(profile)
    if snapshot == "two_epochs":
        return [attributes.EARLY] * len(every)
    epochs = []
    for group in groups(profile, kind):
        best = trained(profile, kind, tuple(group))["errors"][attributes.EARLY - 1 :].argmin(0)
        epochs.append(best.expand(len(group)) + attributes.EARLY)  # MOON has one for all
    return [int(epoch) for epoch in torch.cat(epochs)]


def error_tests(profile: Profile) -> pd.DataFrame:
    """Sections 2.3 and 5: mean error of each approach and its difference from `SEPARATE`, percent.

    `t_test_p` is the paper's, a two-sided paired t-test over attributes; it takes attributes for a sample of all attributes there
    might be. The interval of the difference is that of a bootstrap over test pictures, for these attributes.
    """
    every = wrong(profile)
    drawn = evaluation.people_drawn(faces(profile).subjects[rows_of(profile, "test")])
    rows = []
    for name, errs in every.items():
        difference = errs.mean(1) - every[SEPARATE].mean(1)
        low, high = evaluation.interval(evaluation.share(difference, drawn)) if name != SEPARATE else (np.nan, np.nan)
        mean_low, mean_high = evaluation.interval(evaluation.share(errs.mean(1), drawn))
        p = ttest_rel(errs.mean(0), every[SEPARATE].mean(0)).pvalue
        percent = {"mean_error": errs.mean(), "mean_error_lo": mean_low, "mean_error_hi": mean_high}
        percent |= {"difference": difference.mean(), "difference_lo": low, "difference_hi": high}
        rows.append({"approach": name, **{k: 100 * float(v) for k, v in percent.items()}, "t_test_p": float(p)})
    paper = pd.read_csv(ROOT / "results" / "published" / "attribute_error.csv").set_index("approach")["mean_error"]
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


def flippability(profile: Profile) -> pd.DataFrame:
    """Table 1: of the attributes that a network gets right (+) or wrong (-), the percentage flipped at each PASS threshold.

    Intervals are of a bootstrap over pictures. `published_…` is the paper's.
    """
    drawn = evaluation.people_drawn(faces(profile).subjects[sample(profile)])
    rows = []
    for (loss, kind_of, kind, method), (search, mode) in product(SERIES, SEARCHES.items()):
        found = flips(profile, kind, method, search)
        for sign, of in (("+", found["right"]), ("-", ~found["right"])):
            row: dict[str, Any] = {"loss": loss, "adversarial_type": kind_of + sign, "mode": mode}
            for tau in TAUS:
                hit = adversarial(found, tau) & of
                name = f"pass_{100 * tau:.0f}"
                with np.errstate(invalid="ignore"):  # a draw may hold no such answer
                    many = drawn @ hit.sum(1).double().numpy() / (drawn @ of.sum(1).double().numpy())
                row[name] = 100 * float(hit[of].double().mean())
                row[f"{name}_lo"], row[f"{name}_hi"] = (100 * v for v in evaluation.interval(many))
            rows.append({**row, "total": int(of.sum())})
    return _beside(rows, "robustness_flippability", ATTACK)


def beyond(profile: Profile) -> pd.DataFrame:
    """Where FGS fails on Euclidean networks: right answers by whether their score lies beyond the label (|f| > 1).

    There the loss (f - y)^2 falls on the way to the boundary, so equation 7, which raises it, leads away. `n` answers, and the
    percentage of them whose class flips, at any PASS.
    """
    images, y = faces(profile).images[sample(profile)], signs(profile, sample(profile))
    towards = torch.cat([scores(net, images) for net in networks(profile, "euclidean")], 1) * y
    rows = []
    for name, of in (("between 0 and its label", towards <= 1), ("beyond its label", towards > 1)):
        row: dict[str, Any] = {"score": name}
        for method, (search, mode) in product(("fgs", "ffa"), SEARCHES.items()):
            found = flips(profile, "euclidean", method, search)
            row["n"] = int((of & found["right"]).sum())
            row[f"{method.upper()}, {mode}"] = 100 * float(found["flipped"][of & found["right"]].double().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def success(profile: Profile) -> pd.DataFrame:
    """Figure 3: a row an attribute, series and search; percent of the pictures with that attribute right (+) or wrong (-).

    Attributes are in the order of FGS+ by line-search. `n` counts those pictures; an attribute without any has no share.
    """
    rows = []
    for (_, kind_of, kind, method), (search, mode) in product(SERIES[:3], SEARCHES.items()):
        found = flips(profile, kind, method, search)
        for sign, of in (("+", found["right"]), ("-", ~found["right"])):
            for i, attribute in enumerate(names(profile)):
                hit = (adversarial(found)[:, i] & of[:, i])[of[:, i]].numpy()
                row = {"attribute": attribute, "adversarial_type": kind_of + sign, "mode": mode, "n": len(hit)}
                rows.append({**row, **_percent("success", hit)})
    table = pd.DataFrame(rows)
    first = table[(table["adversarial_type"] == "FGS+") & (table["mode"] == SEARCHES["line"])]
    order = first.sort_values("success", kind="stable", ascending=False)["attribute"].tolist()
    return _by_attribute(table, order)


def progress(profile: Profile) -> pd.DataFrame:
    """Table 2: adversarial instances by line-search after two epochs, after convergence, and at both; with the paper's.

    `share_…` is the percentage of the attributes right (+) or wrong (-) then. `learned`: of the instances after two epochs that
    are none after convergence, the percentage that the converged network classifies correctly.
    """
    rows = []
    for loss, kind_of, kind, method in SERIES:
        if kind == "moon":
            continue
        early, late = (flips(profile, kind, method, "line", snapshot) for snapshot in ("two_epochs", "converged"))
        for sign in "+-":
            of = [found["right"] == (sign == "+") for found in (early, late)]
            then, now = (adversarial(found) & which for found, which in zip((early, late), of, strict=True))
            gone = then & ~now
            rows.append({
                "loss": loss, "adversarial_type": kind_of + sign, "pictures": len(of[0]),
                "two_epochs": int(then.sum()), "converged": int(now.sum()), "overlap": int((then & now).sum()),
                "share_two_epochs": 100 * int(then.sum()) / int(of[0].sum()),
                "share_converged": 100 * int(now.sum()) / int(of[1].sum()),
                "learned": 100 * float(late["right"][gone].double().mean()),
            })  # fmt: skip
    return _beside(rows, "robustness_progress", ["loss", "adversarial_type"])


def others(profile: Profile, kind: str, search: str, snapshot: str = "converged") -> pd.DataFrame:
    """Figures 4 and 5: of the adversarial images made by FFA for the attribute of a column, the percentage that changes the
    answer of a row's: on the converged separate networks (`kind` 'euclidean', made at `snapshot`), or on MOON. Empty: none made.
    """
    found = flips(profile, kind, "ffa", search, snapshot)
    made = adversarial(found)
    changed = (found["others"] & made[:, :, None]).sum(0).T.double()  # tested x made for
    counts = made.sum(0).double()
    share = torch.where(counts > 0, 100 * changed / counts, torch.nan)
    return pd.DataFrame(share.numpy(), index=pd.Index(names(profile), name="attribute"), columns=names(profile))


def universal(profile: Profile) -> pd.DataFrame:
    """What one perturbation N for all does to each separate network on test pictures, beside FFA's own for every mistake.

    Percent: `natural`, of the mistakes those that FFA sets right at PASS 0.95 (natural adversarial samples, section 3.2);
    `set_right`, of the mistakes, and `natural_set_right`, of the natural ones, those that N sets right; `broken`, of the right
    ones those that N turns wrong; before, after and rise as `evaluation.compared`; `bound`, the accuracy if every natural sample
    were set right and nothing broken; `threshold`, that of the best decision threshold of the fitting pictures, without N.
    `psnr` (dB) and `pass` are means over test pictures with N. `recommended`: the gain on validation pictures is above zero.
    """
    rows = []
    bar = tqdm(names(profile), desc="universal perturbations", unit="attribute")
    people = {split: faces(profile).subjects[rows] for split, rows in universal_rows(profile).items()}
    drawn = evaluation.people_drawn(people["val"])
    for i, attribute in enumerate(bar):
        kept = robustness.universal(profile, i)
        truth = kept["test_labels"].numpy() == 1
        right, after = ((kept[f"test_{stage}"].numpy() > 0.5) == truth for stage in ("before", "after"))
        val_truth = kept["val_labels"].numpy() == 1
        val_right, val_after = ((kept[f"val_{stage}"].numpy() > 0.5) == val_truth for stage in ("before", "after"))
        gain = evaluation.gain(val_after, val_right, drawn)
        cut = evaluation.best_threshold(kept["train_before"].double().numpy(), kept["train_labels"].numpy())
        natural = (kept["ffa"] & (kept["ffa_pass"] >= TAU)).numpy()
        shares = {
            "natural": natural, "set_right": after[~right], "natural_set_right": after[~right][natural], "broken": ~after[right],
        }  # fmt: skip
        row: dict[str, Any] = {"attribute": attribute, "mistakes": int((~right).sum()), "n_test": len(truth)}
        for name, which in shares.items():
            row |= _percent(name, which)
        rows.append({
            **row, **evaluation.compared(right, after, people["test"]),
            "bound": 100 * float((right.sum() + natural.sum()) / len(right)),
            "threshold": 100 * float(((kept["test_before"].numpy() > cut) == truth).mean()),
            "psnr": float(kept["psnr"].mean()), "pass": float(kept["pass"].mean()),
            "recommended": evaluation.interval(gain)[0] > 0,
        })  # fmt: skip
    return pd.DataFrame(rows)


def related(profile: Profile, matrices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How well each matrix of `others` follows the training labels: Spearman's rank correlation, over the `pairs` of different
    attributes that have a share, of the share of answers changed with the absolute correlation of the two labels.

    Intervals are of a bootstrap over the attributes that the images were made for. `elsewhere` is the mean share, percent.
    """
    count = len(names(profile))
    alike = np.abs(np.corrcoef(signs(profile, rows_of(profile, "train")).numpy().T))
    rows = []
    for name, matrix in matrices.items():
        share = np.where(np.eye(count, dtype=bool), np.nan, matrix.to_numpy(float))

        def follows(columns: NDArray[np.int64], share: NDArray[np.float64] = share) -> float:
            pairs = np.isfinite(share[:, columns])
            if not np.ptp(share[:, columns][pairs]):
                return np.nan  # nothing moved, so nothing is related
            return float(spearmanr(share[:, columns][pairs], alike[:, columns][pairs]).statistic)

        draw = rng("related")
        low, high = evaluation.interval(np.array([follows(draw.integers(count, size=count)) for _ in range(1000)]))
        row = {"matrix": name, "pairs": int(np.isfinite(share).sum()), "elsewhere": float(np.nanmean(share))}
        rows.append({**row, "follows": follows(np.arange(count)), "follows_lo": low, "follows_hi": high})
    return pd.DataFrame(rows)


def examples(profile: Profile) -> list[Flipped]:
    """Figure 1: a natural adversarial sample set right on a separate network, and an attribute flipped on MOON, by both searches.

    The first of the sampled pictures whose line-search perturbation is adversarial, for the attribute with the most of them.
    """
    shown: list[Flipped] = []
    for search, (kind, wanted) in product(SEARCHES, (("euclidean", "-"), ("moon", "+"))):
        found = flips(profile, kind, "ffa", "line")
        hits = adversarial(found) & (found["right"] == (wanted == "+"))
        i = int(hits.sum(0).argmax())
        row = sample(profile)[int(hits[:, i].byte().argmax())]
        (net, output), y = of_attribute(profile, kind, i), signs(profile, np.array([row]))
        before = torch.from_numpy(faces(profile).images[[row]])
        made = flipping.flip(net, before, y[:, i], "ffa", search, loss_of(kind), output)
        changed = (answers(net, before, loss_of(kind)) != answers(net, made.images, loss_of(kind)))[0]
        also = [name for j, name in enumerate(names(profile)) if kind == "moon" and changed[j] and j != i]
        score = float(similarity.pass_score(before.float() / 255, made.images.float() / 255))
        truth, fate = "present" if y[0, i] > 0 else "absent", "right, flipped" if wanted == "+" else "wrong, set right"
        where = "MOON" if kind == "moon" else "separate network"
        caption = f"{where}, {SEARCHES[search]}: PASS {score:.4f}" + "".join(f"\nalso flipped: {name}" for name in also[:2])
        caption += f" and {len(also) - 2} more" if len(also) > 2 else ""
        shown.append(Flipped(f"({'abcd'[len(shown)]}) {names(profile)[i]}, {truth}: {fate}", before[0], made.images[0], caption))
    return shown
