"""The tables that notebooks show and write: a row per cell, percent, beside the paper's own numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dftlib import paths
from dftlib.datasets import SPLITS, FaceDataset
from dftlib.datasets.base import Split
from dftlib.experiments.lab import ROLES, SCRATCH, Lab, published, settings_of, under
from dftlib.experiments.outcome import ON_N, REMEDIES, Cell, Outcome
from dftlib.images import to_float
from dftlib.metrics import similarity
from dftlib.metrics.comparison import Comparison, compare
from dftlib.perturbation.box_maps import BOXES
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots import style
from dftlib.progress import tqdm

OF_EACH = 5  # test images of a person
CELL = ("table", "data", "model", "attribute", "protocol", "seed")


def outcomes(found: Iterable[Outcome]) -> pd.DataFrame:
    """The rows of these outcomes, with the paper's own before and after (percent) where the data sets are the paper's."""
    paper = published().drop(columns="experiment").replace({name: name.lower() for name in ROLES})
    paper = paper.rename(columns={"model_trained_on": "model", "before": "published_before", "after": "published_after"})
    return pd.DataFrame([o.row for o in found]).merge(paper, on=["table", "attribute", "data", "model"], how="left")


def controls(lab: Lab, found: Iterable[Outcome]) -> pd.DataFrame:
    """A row per outcome and control: accuracy and balanced accuracy (percent, Wilson 95 %), and how far N is above it.

    `over` is the accuracy under N less the control's, with a bootstrap over people; `gained` and `lost` count the images
    that only N, and that only the control, gets right.
    """
    rows = []
    for o in found:
        others = {name: o.scores[name].argmax(1).numpy() == o.comparison.labels for name in ("unaligned", "oracle")}
        right = {**o.comparison.right, **others, **lab.controlled(o)}
        for name in ("unaligned", "before", "after", *REMEDIES, *ON_N, "oracle"):
            comparison = replace(o.comparison, right={"before": right[name], "after": right["after"]})
            row = comparison.row()
            rows.append({
                **{k: o.row[k] for k in (*CELL, "n_test")}, "control": name, **_renamed(row, "before", "accuracy"),
                "balanced": comparison.balanced()["balanced_before"], **_renamed(row, "rise", "over"),
                **{k: row[k] for k in ("gained", "lost", "mcnemar_p")},
            })  # fmt: skip
    return pd.DataFrame(rows)


def _renamed(row: dict[str, float], name: str, wanted: str) -> dict[str, float]:
    """A value of a row and the ends of its interval, under another name."""
    return {f"{wanted}{end}": row[f"{name}{end}"] for end in ("", "_lo", "_hi")}


def subgroups(lab: Lab, found: Iterable[Outcome], smallest: int = 50) -> pd.DataFrame:
    """Accuracy before and after for women and men, and with and without glasses (groups of `smallest` test images or more).

    Percent, with Wilson intervals; the interval of the rise is a bootstrap over people.
    """
    names = {"women": ("Gender", 0), "men": ("Gender", 1), "no glasses": ("Eyeglasses", 0), "glasses": ("Eyeglasses", 1)}
    rows = []
    for o, (group, (attribute, value)) in product(found, names.items()):
        here = lab.faces(o.cell.data, o.cell.protocol).labels[attribute].to_numpy()[o.test.rows] == value
        if here.sum() >= smallest:
            own = o.comparison.of(here)
            said = {"group": group, "n": int(here.sum()), "people": len(np.unique(own.subjects))}
            rows.append({**{k: o.row[k] for k in CELL}, **said, **own.row()})
    return pd.DataFrame(rows)


def interval_widths(found: Iterable[Outcome]) -> pd.DataFrame:
    """Width of the rise's 95 % interval over people and over images (points), and their ratio, where people come several times.

    Of everybody with three test images or more, at most `OF_EACH`: as many as CelebA, whose people aren't named, has of each.
    """
    rows = []
    for o in found:
        given = pd.Series(o.test.subjects)
        often = given[given.map(given.value_counts()) >= 3]
        kept = often[often.groupby(often).cumcount() < OF_EACH].index
        people = o.comparison.of(np.isin(np.arange(len(given)), kept))
        images = replace(people, subjects=np.arange(len(kept)).astype(str))
        over_people, over_images = (c.rise["_hi"] - c.rise["_lo"] if len(kept) else 0.0 for c in (people, images))
        if over_images > 0:
            widths = {"over_people": over_people, "over_images": over_images, "ratio": over_people / over_images}
            counts = {"people": len(np.unique(people.subjects)), "images": len(kept)}
            rows.append({**{k: o.row[k] for k in CELL}, **counts, **widths})
    return pd.DataFrame(rows)


def confusion(found: Iterable[Outcome]) -> pd.DataFrame:
    """Table 4: row-normalised confusion matrices in percent, a row per true class, beside the paper's where they exist."""
    rows = []
    for o, stage, (truth, name) in product(found, ("before", "after"), ((1, "present"), (0, "absent"))):
        said = (o.scores[stage].argmax(1) == 1).numpy()
        share = 100 * float(said[o.comparison.labels == truth].mean())
        names = {"data": o.cell.data, "attribute": o.cell.attribute, "stage": stage, "truth": name}
        rows.append({**names, "predicted_present": share, "predicted_absent": 100 - share})
    paper = pd.read_csv(paths.published("data_fine_tuning_confusion")).drop(columns="table")
    paper = paper.assign(data=paper["data"].str.lower())
    return pd.DataFrame(rows).merge(paper, on=["data", "attribute", "stage", "truth"], how="left", suffixes=("", "_published"))


def data_summary(lab: Lab) -> pd.DataFrame:
    """A row per data set, protocol, attribute and split: pictures, people, share present (percent), people also in train."""
    rows = []
    for name, protocol in product(lab.profile.datasets, lab.profile.protocols):
        data = lab.faces(name, protocol)
        for attribute, split in product(data.labels, SPLITS):
            labels = data.labels[attribute].to_numpy()
            train, here = ((labels >= 0) & (data.split == part) for part in ("train", split))
            if here.any():
                people = set(data.subjects[here])
                rows.append({
                    "data": name, "protocol": protocol, "attribute": attribute, "split": split, "pictures": int(here.sum()),
                    "people": len(people), "present": 100 * float(labels[here].mean()),
                    "people_also_in_train": len(people & set(data.subjects[train])) if split != "train" else 0,
                })  # fmt: skip
    return pd.DataFrame(rows)


ALIGNMENTS = {"none": "the usual crops", "crop": "one crop, eyes in place", "chip": "by landmarks"}


def alignments(lab: Lab) -> dict[str, str]:
    """The ways of cutting faces out that differ on this profile's sets, with their names: drawn ones have no other crop."""
    return {way: name for way, name in ALIGNMENTS.items() if not (lab.profile.synthetic and way == "crop")}


def by_alignment(lab: Lab) -> dict[str, list[FaceDataset]]:
    """The profile's data sets cut in each way, by its name."""
    return {name: [lab.other(align=way).faces(data) for data in lab.profile.datasets] for way, name in alignments(lab).items()}


def eyes(cut: dict[str, list[FaceDataset]]) -> pd.DataFrame:
    """Where the eyes are, a row a data set and way of cutting: median and spread, percent of the width and of the height.

    `detected`: the share of pictures (percent) in which dlib's detector found the face; the others' landmarks were looked for
    where faces of that set usually are.
    """
    rows = []
    for way, data in ((way, data) for way, sets in cut.items() for data in sets):
        assert data.faces is not None
        left, right = 100 * data.faces.eyes[:, 0], 100 * data.faces.eyes[:, 1]
        found = {"middle": (left + right)[:, 0] / 2, "line": (left + right)[:, 1] / 2, "distance": (right - left)[:, 0]}
        numbers = {f"{name}{end}": f(v) for name, v in found.items() for end, f in (("", np.median), ("_std", np.std))}
        said = {"pictures": len(data), "detected": 100 * data.faces.detected.mean()}
        rows.append({"data": data.name, "cut": way, **said, **numbers})
    return pd.DataFrame(rows)


def classifier_accuracy(lab: Lab) -> pd.DataFrame:
    """Every classifier of the tables on the test images of its own data set, and on every other set for its attribute.

    Percent, ROC areas in [0, 1]; `trivial` is the majority class of the training split. Gender also for `convnet`.
    """
    profile = lab.profile
    runs = [(lab, *pair) for pair in dict.fromkeys((c.model, c.attribute) for c in lab.cells(2, 3, 5, 6))]
    if profile.backbone != "convnet":
        runs += [(lab.other(**SCRATCH), name, "Gender") for name in profile.datasets]
    protocol, seed = profile.protocols[0], profile.seeds[0]
    rows = []
    for run, name, attribute in tqdm(runs, desc="classifiers", unit="classifier"):
        train = run.part(name, attribute, "train", protocol, seed)
        majority = int(train.labels.double().mean() >= 0.5)
        for data in profile.datasets:
            if (run.faces(data, protocol).labels[attribute] < 0).all():
                continue
            test, found = _as_they_are(run, Cell(0, attribute, data, name, protocol, seed))
            rows.append({
                "attribute": attribute, "model": name, "data": data, "backbone": run.profile.backbone, "protocol": protocol,
                "seed": seed, "n_train": len(train), "n_test": len(test), **_renamed(found.row(), "before", "accuracy"),
                "trivial": 100 * float((test.labels == majority).double().mean()),
                "balanced": found.balanced()["balanced_before"], "auc": found.areas()["auc_before"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def _as_they_are(lab: Lab, cell: Cell) -> tuple[Split, Comparison]:
    """The test images of a cell's data, and what its classifier makes of them without N."""
    test = lab.part(cell.data, cell.attribute, "test", cell.protocol, cell.seed)
    scores = lab.unperturbed(cell, cell.model, test)
    return test, compare(scores, scores, test)


def crops(lab: Lab) -> pd.DataFrame:
    """Gender classifiers on the test images of every data set, both cut in one way: a row a way, pair of sets and seed.

    Percent, with Wilson intervals; the first protocol. (`Outcome.row`'s `unaligned` gives usual crops to a classifier of aligned
    faces instead.)
    """
    sets, protocol = lab.profile.datasets, lab.profile.protocols[0]
    pairs = [Cell(0, "Gender", data, model, protocol, seed) for model, data, seed in product(sets, sets, lab.profile.seeds)]
    rows = []
    for (way, name), cell in tqdm(list(product(alignments(lab).items(), pairs)), desc="crops", unit="pair"):
        test, found = _as_they_are(lab.other(align=way), cell)
        names = {"cut": name, "model": cell.model, "data": cell.data, "seed": cell.seed, "n_test": len(test)}
        shares = {**_renamed(found.row(), "before", "accuracy"), "balanced": found.balanced()["balanced_before"]}
        rows.append({**names, **shares})
    return pd.DataFrame(rows)


def home_and_away(cut: pd.DataFrame) -> pd.DataFrame:
    """Of `crops`, a row a way: mean accuracy (percent) on the classifiers' own sets, on others, and the points between them."""
    own = (cut["model"] == cut["data"]).map({True: "own set", False: "other sets"})
    means = cut.groupby(["cut", own], sort=False)["accuracy"].mean().unstack()[["own set", "other sets"]]
    return means.assign(lost=means["own set"] - means["other sets"]).rename_axis(columns=None)


def boxes_at_zero(lab: Lab) -> pd.DataFrame:
    """Each box map at N = 0 on the Gender test images of each set, under that set's own classifier: percent and dB.

    A map that is the identity there changes nothing; `printed`, equation 5 as it stands, does.
    """
    protocol, seed = lab.profile.protocols[0], lab.profile.seeds[0]
    rows = []
    for name in lab.profile.datasets:
        test = lab.part(name, "Gender", "test", protocol, seed)
        images, model = test.images, lab.classifier(name, "Gender", protocol, seed)
        plain, before = to_float(images, torch.device("cpu")), model.scores(images)
        for box in BOXES:
            z = Perturbation(torch.zeros(images.shape[1:]), box).apply(images)
            found = compare(before, model.scores(z), test)
            rows.append({
                "data": name, "box": box, "original": found.accuracy("before"), "at_zero": found.accuracy("after"),
                "psnr": float(similarity.psnr(plain, z).mean()), "darkest": float(z.min()), "brightest": float(z.max()),
            })  # fmt: skip
    return pd.DataFrame(rows)


def design(lab: Lab) -> pd.DataFrame:
    """Table 1 on the profile's data sets: a row per cell of the paper's Tables 2, 3, 5 and 6."""
    plan = published()[["table", "experiment", "attribute", "data", "model_trained_on"]]
    return plan.replace(dict(zip(ROLES, lab.profile.datasets, strict=True)))


def brief(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that a reader looks at first, rounded."""
    names = ["attribute", "data", "model", "protocol", "seed", "unaligned", "before", "after", "rise", "rise_lo", "rise_hi"]
    names += ["gained", "lost", "mcnemar_p", *REMEDIES, "over_best", "over_best_lo", "over_best_hi", "oracle", "balanced_before"]
    names += ["balanced_after", "auc_before", "auc_after", "recommended", "after_8bit", "after_jpeg95", "psnr", "ssim"]
    if rows["published_before"].notna().any():
        names += ["published_before", "published_after"]
    finer = {"mcnemar_p": 4, "ssim": 2, "auc_before": 3, "auc_after": 3}
    return rows[names].round(dict.fromkeys(rows[names].select_dtypes("float"), 1) | finer)


def panel(o: Outcome) -> style.Panel:
    """An outcome as the score plots take it."""
    before, after = (o.scores[stage][:, 1].numpy() for stage in ("before", "after"))
    return style.Panel(o.cell.title, before, after, o.comparison.labels)


def block(lab: Lab, o: Outcome) -> style.Block:
    """An outcome with its faces, as Figure 5 takes it."""
    return style.Block(panel(o), lab.faces(o.cell.data, o.cell.protocol), o.test.rows, o.perturbation)


def glance(lab: Lab, cell: Cell, strength: float = 1.0, weight: float = 0.0) -> dict[str, Any]:
    """Eight test images of a Gender cell, drawn at random, as `data_finetuning.examples` takes them. The title counts all test
    images that are right, and says the PSNR of the eight.

    strength: factor of N
    weight:   of the distance, with which N was fitted; 0: the profile's own fit, within its limit on the PSNR
    """
    settings = settings_of(lab.profile)
    found = lab.fitted(cell, replace(settings, min_psnr=0.0, weight=weight) if weight else settings)
    found = found.with_n(strength * found.n)
    data, (_, _, test) = lab.faces(cell.data, cell.protocol), lab.splits(cell)
    scores = (lab.unperturbed(cell, cell.model, test), under(lab.model(cell), found, test.images))
    true = torch.stack([s.gather(1, test.labels[:, None])[:, 0] for s in scores])
    before, after = (100 * (true > 0.5).double().mean(1)).tolist()
    rows = style.some_faces(data, test.rows, 8, cell.seed)
    images = torch.from_numpy(data.images[rows])
    changed = found.apply_uint8(images)
    psnr = similarity.psnr(images / 255, changed / 255).mean().item()
    title = f"{cell.title}: of {len(test):,} pictures {before:.1f} % right before, {after:.1f} % after, at {psnr:.1f} dB"
    return {"before": images, "after": changed, "true": true[:, np.searchsorted(test.rows, rows)], "title": title}


def published_confusion(found: Sequence[Outcome]) -> list[NDArray[np.float64]]:
    """The paper's Table 4 for these outcomes, as `data_finetuning.confusion` takes it; empty for synthetic data sets."""
    published = confusion(found)[["predicted_present_published", "predicted_absent_published"]]
    return [] if published.isna().any(axis=None) else list(published.to_numpy().reshape(-1, 2, 2, 2))
