"""The tables that notebooks show and write: a row per cell, percent, beside the paper's own numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dftlib import evaluation, figures, similarity
from dftlib.classifiers import to_float
from dftlib.config import ROOT, Profile
from dftlib.datasets import SPLITS, FaceDataset
from dftlib.experiments import (
    ON_N,
    REMEDIES,
    ROLES,
    SCRATCH,
    Cell,
    Outcome,
    cells,
    classifier,
    controlled,
    faces,
    fit_cell,
    labels_of,
    published,
    rows_of,
    settings_of,
    test_rows,
    under,
    unperturbed,
)
from dftlib.perturbation import BOXES, Perturbation
from dftlib.progress import tqdm


def outcomes(found: Iterable[Outcome]) -> pd.DataFrame:
    """The rows of these outcomes, with the paper's own before and after (percent) where the data sets are the paper's."""
    rows = pd.DataFrame([o.row for o in found])
    paper = published().rename(columns={"model_trained_on": "model", "before": "published_before", "after": "published_after"})
    paper = paper.drop(columns="experiment").assign(data=paper["data"].str.lower(), model=paper["model"].str.lower())
    return rows.merge(paper, on=["table", "attribute", "data", "model"], how="left")


def controls(profile: Profile, found: Iterable[Outcome]) -> pd.DataFrame:
    """A row per outcome and control: accuracy and balanced accuracy (percent, Wilson 95 %), and how far N is above it.

    `over` is the accuracy under N less the control's, with a bootstrap over people; `gained` and `lost` count the pictures
    that only N, and that only the control, gets right.
    """
    rows = []
    for o in found:
        drawn = evaluation.people_drawn(faces(profile, o.cell.data, o.cell.protocol).subjects[o.test_rows])
        after, one = o.right["after"], np.ones((1, len(o.labels)))
        each = o.right | controlled(profile, o)
        for name in ("unaligned", "before", "after", *REMEDIES, *ON_N, "oracle"):
            right = each[name]
            low, high = evaluation.wilson(right)
            over = evaluation.interval(evaluation.gain(after, right, drawn))
            rows.append(
                {
                    **{k: o.row[k] for k in ("table", "data", "model", "attribute", "protocol", "seed", "n_test")},
                    "control": name,
                    "accuracy": 100 * right.mean(), "accuracy_lo": 100 * low, "accuracy_hi": 100 * high,
                    "balanced": 100 * float(evaluation.balanced_share(right, o.labels, one)[0]),
                    "over": 100 * (after.mean() - right.mean()), "over_lo": 100 * over[0], "over_hi": 100 * over[1],
                    "gained": int((after & ~right).sum()), "lost": int((right & ~after).sum()),
                    "mcnemar_p": evaluation.mcnemar(right, after),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def subgroups(profile: Profile, found: Iterable[Outcome], smallest: int = 50) -> pd.DataFrame:
    """Accuracy before and after for women and men, and with and without glasses (groups of `smallest` test pictures or more).

    Percent, with Wilson intervals; the interval of the rise is a bootstrap over people.
    """
    names = {"Gender": ("women", "men"), "Eyeglasses": ("no glasses", "glasses")}
    rows = []
    for o in found:
        data = faces(profile, o.cell.data, o.cell.protocol)
        for attribute, values in names.items():
            for value, group in enumerate(values):
                here = data.labels[attribute].to_numpy()[o.test_rows] == value
                if here.sum() < smallest:
                    continue
                people = data.subjects[o.test_rows][here]
                said = {"group": group, "n": int(here.sum()), "people": len(np.unique(people))}
                names_of_cell = {k: o.row[k] for k in ("table", "data", "model", "attribute", "protocol", "seed")}
                both = evaluation.compared(o.right["before"][here], o.right["after"][here], people)
                rows.append({**names_of_cell, **said, **both})
    return pd.DataFrame(rows)


def confusion(found: Iterable[Outcome]) -> pd.DataFrame:
    """Table 4: row-normalised confusion matrices in percent, a row per true class, beside the paper's where they exist."""
    rows = []
    for o in found:
        for stage, scores in (("before", o.before), ("after", o.after)):
            for truth, name in ((1, "present"), (0, "absent")):
                share = 100 * float((scores.argmax(1).numpy()[o.labels == truth] == 1).mean())
                rows.append(
                    {
                        "data": o.cell.data,
                        "attribute": o.cell.attribute,
                        "stage": stage,
                        "truth": name,
                        "predicted_present": share,
                        "predicted_absent": 100 - share,
                    }
                )
    paper = pd.read_csv(ROOT / "results" / "published" / "data_fine_tuning_confusion.csv").drop(columns="table")
    paper = paper.assign(data=paper["data"].str.lower())
    return pd.DataFrame(rows).merge(paper, on=["data", "attribute", "stage", "truth"], how="left", suffixes=("", "_published"))


def data_summary(profile: Profile) -> pd.DataFrame:
    """A row per data set, protocol, attribute and split: pictures, people, share present (percent), people also in train."""
    rows = []
    for name in profile.datasets:
        for protocol in profile.protocols:
            data = faces(profile, name, protocol)
            for attribute in data.labels:
                known = data.labels[attribute].to_numpy() >= 0
                people = set(data.subjects[known & (data.split == "train")])
                for split in SPLITS:
                    here = known & (data.split == split)
                    if not here.any():
                        continue
                    persons = set(data.subjects[here])
                    rows.append(
                        {
                            "data": name,
                            "protocol": protocol,
                            "attribute": attribute,
                            "split": split,
                            "pictures": int(here.sum()),
                            "people": len(persons),
                            "present": 100 * float(data.labels[attribute].to_numpy()[here].mean()),
                            "people_also_in_train": len(persons & people) if split != "train" else 0,
                        }
                    )
    return pd.DataFrame(rows)


ALIGNMENTS = {"none": "the usual crops", "crop": "one crop, eyes in place", "chip": "by landmarks"}


def alignments(profile: Profile) -> dict[str, str]:
    """The ways of cutting faces out that differ on this profile's sets, with their names: drawn ones have no other crop."""
    return {way: name for way, name in ALIGNMENTS.items() if not (profile.synthetic and way == "crop")}


def by_alignment(profile: Profile) -> dict[str, list[FaceDataset]]:
    """The profile's data sets cut in each way, by its name."""
    ways, protocol = alignments(profile), profile.protocols[0]
    return {name: [faces(replace(profile, align=way), data, protocol) for data in profile.datasets] for way, name in ways.items()}


def eyes(cut: dict[str, list[FaceDataset]]) -> pd.DataFrame:
    """Where the eyes are, a row a data set and way of cutting: mean and spread, percent of the width and of the height.

    `detected`: the share of pictures (percent) in which dlib's detector found the face; the others' landmarks were looked for
    where faces of that set usually are.
    """
    rows = []
    for way, sets in cut.items():
        for data in sets:
            assert data.faces is not None
            left, right = 100 * data.faces.eyes[:, 0], 100 * data.faces.eyes[:, 1]
            found = {"middle": (left + right)[:, 0] / 2, "line": (left + right)[:, 1] / 2, "distance": (right - left)[:, 0]}
            numbers = {f"{name}{end}": f(v) for name, v in found.items() for end, f in (("", np.mean), ("_std", np.std))}
            said = {"pictures": len(data), "detected": 100 * data.faces.detected.mean()}
            rows.append({"data": data.name, "cut": way, **said, **numbers})
    return pd.DataFrame(rows)


def classifier_accuracy(profile: Profile) -> pd.DataFrame:
    """Every classifier of the tables on the test pictures of its own data set, and on every other set for its attribute.

    Percent, ROC areas in [0, 1]; `trivial` is the majority class of the training split. Gender also for `convnet`.
    """
    pairs = dict.fromkeys((c.model, c.attribute) for c in cells(profile, 2, 3, 5, 6))
    runs = [(profile, *pair) for pair in pairs]
    if profile.backbone != "convnet":
        scratch = replace(profile, **SCRATCH)
        runs += [(scratch, name, "Gender") for name in profile.datasets]
    protocol, seed = profile.protocols[0], profile.seeds[0]
    rows = []
    for run, name, attribute in tqdm(runs, desc="classifiers", unit="classifier"):
        train = rows_of(run, name, attribute, "train", protocol, seed)
        majority = int(labels_of(run, name, attribute, train, protocol).double().mean() >= 0.5)
        for data in run.datasets:
            if (faces(run, data, protocol).labels[attribute] < 0).all():
                continue
            test = rows_of(run, data, attribute, "test", protocol, seed)
            y = labels_of(run, data, attribute, test, protocol).numpy()
            scores = unperturbed(run, Cell(0, attribute, data, name, protocol, seed), name, test)
            low, high = evaluation.wilson(scores.argmax(1).numpy() == y)
            rows.append(
                {
                    "attribute": attribute,
                    "model": name,
                    "data": data,
                    "backbone": run.backbone,
                    "protocol": protocol,
                    "seed": seed,
                    "n_train": len(train),
                    "n_test": len(y),
                    "accuracy": 100 * evaluation.accuracy(scores, y),
                    "accuracy_lo": 100 * low,
                    "accuracy_hi": 100 * high,
                    "trivial": 100 * float((y == majority).mean()),
                    "balanced": 100 * evaluation.balanced_accuracy(scores, y),
                    "auc": evaluation.roc_area(scores, y),
                }
            )
    return pd.DataFrame(rows)


def boxes_at_zero(profile: Profile) -> pd.DataFrame:
    """Each box map at N = 0 on the Gender test pictures of each set, under that set's own classifier: percent and dB.

    A map that is the identity there changes nothing; `printed`, equation 5 as it stands, does.
    """
    protocol, seed = profile.protocols[0], profile.seeds[0]
    rows = []
    for name in profile.datasets:
        test = rows_of(profile, name, "Gender", "test", protocol, seed)
        y = labels_of(profile, name, "Gender", test, protocol).numpy()
        images = faces(profile, name, protocol).images[test]
        model, plain = classifier(profile, name, "Gender", protocol, seed), to_float(images, torch.device("cpu"))
        for box in BOXES:
            z = Perturbation(torch.zeros(images.shape[1:]), box).apply(images)
            rows.append(
                {
                    "data": name,
                    "box": box,
                    "original": 100 * evaluation.accuracy(model.scores(images), y),
                    "at_zero": 100 * evaluation.accuracy(model.scores(z), y),
                    "psnr": float(similarity.psnr(plain, z).mean()),
                    "darkest": float(z.min()),
                    "brightest": float(z.max()),
                }
            )
    return pd.DataFrame(rows)


def design(profile: Profile) -> pd.DataFrame:
    """Table 1 on the profile's data sets: a row per cell of the paper's Tables 2, 3, 5 and 6."""
    plan = published()[["table", "experiment", "attribute", "data", "model_trained_on"]]
    return plan.replace(dict(zip(ROLES, profile.datasets, strict=True)))


def brief(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that a reader looks at first, rounded."""
    names = ["attribute", "data", "model", "protocol", "seed", "unaligned", "before", "after", "rise", "rise_lo", "rise_hi"]
    names += ["gained", "lost", "mcnemar_p", *REMEDIES, "over_best", "over_best_lo", "over_best_hi", "oracle", "balanced_before"]
    names += ["balanced_after", "auc_before", "auc_after", "recommended", "after_8bit", "after_jpeg95", "psnr", "ssim"]
    if rows["published_before"].notna().any():
        names += ["published_before", "published_after"]
    finer = {"mcnemar_p": 4, "ssim": 2, "auc_before": 3, "auc_after": 3}
    return rows[names].round(dict.fromkeys(rows[names].select_dtypes("float"), 1) | finer)


def panel(o: Outcome) -> figures.Panel:
    """An outcome as the score plots take it."""
    return figures.Panel(o.cell.title, o.before[:, 1].numpy(), o.after[:, 1].numpy(), o.labels)


def block(profile: Profile, o: Outcome) -> figures.Block:
    """An outcome with its faces, as Figure 5 takes it."""
    return figures.Block(panel(o), faces(profile, o.cell.data, o.cell.protocol), o.test_rows, o.perturbation)


def glance(profile: Profile, cell: Cell, strength: float = 1.0, weight: float = 0.0) -> dict[str, Any]:
    """Eight test pictures of a Gender cell, drawn at random, as `figures.examples` takes them; its title counts all of them.

    strength: factor of N
    weight:   of the distance, with which N was fitted; 0: the profile's own fit, within its limit on the PSNR
    """
    settings = settings_of(profile)
    found = fit_cell(profile, cell, replace(settings, min_psnr=0.0, weight=weight) if weight else settings)
    found = replace(found, n=strength * found.n)
    data, test = faces(profile, cell.data, cell.protocol), test_rows(profile, cell)
    model = classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)
    truth = labels_of(profile, cell.data, cell.attribute, test, cell.protocol)
    scores = (unperturbed(profile, cell, cell.model, test), under(model, found, data.images[test]))
    true = torch.stack([s.gather(1, truth[:, None])[:, 0] for s in scores])
    before, after = (100 * (true > 0.5).double().mean(1)).tolist()
    rows = figures.some_faces(data, test, 8, cell.seed)
    images = torch.from_numpy(data.images[rows])
    changed = found.apply_uint8(images)
    psnr = similarity.psnr(images / 255, changed / 255).mean().item()
    return {
        "before": images,
        "after": changed,
        "true": true[:, np.searchsorted(test, rows)],
        "title": f"{cell.title}: of {len(test):,} pictures {before:.1f} % right before, {after:.1f} % after, at {psnr:.1f} dB",
    }


def published_confusion(found: Sequence[Outcome]) -> list[NDArray[np.float64]]:
    """The paper's Table 4 for these outcomes, as `figures.confusion` takes it; empty for synthetic data sets."""
    measured = confusion(found)
    if measured["predicted_present_published"].isna().any():
        return []
    columns = ["predicted_present_published", "predicted_absent_published"]
    return [rows[columns].to_numpy().reshape(2, 2, 2) for _, rows in measured.groupby("attribute", sort=False)]
