"""What notebooks 04 and 05 measure: how many labels it takes, both ways combined, and what the paper leaves open."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dftlib import artefacts
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets.base import Split
from dftlib.errors import DataError
from dftlib.experiments import tables
from dftlib.experiments.lab import BESIDE_GENDER, SCRATCH, Lab, content, settings_of, some, under
from dftlib.experiments.outcome import Cell
from dftlib.images import batches, to_float
from dftlib.metrics import similarity
from dftlib.metrics.comparison import compare
from dftlib.models import backbones, training
from dftlib.perturbation import baselines, gradient
from dftlib.perturbation.gradient import Settings
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots import style
from dftlib.progress import tqdm
from dftlib.seeds import rng

ALL_LAYERS_RATE = 0.0001  # the 0.005 that the paper gives its head throws a whole pretrained network off
ROUNDS = 4
COMPARED = 256  # test images on which PSNR, SSIM and PASS are measured
COARSE = 75  # the lowest JPEG quality tried

Labelled = tuple[Tensor, Tensor]  # features n x F, labels n
Row = dict[str, Any]
Choices = Iterable[tuple[str, Row]]


def contest(lab: Lab) -> list[Cell]:
    """The cells of Figures 9 and 10: images of the first and third data set, by the model trained on the second."""
    other = lab.profile.datasets[1]
    return [c for c in lab.main(5, 6) if c.model == other and c.attribute != BESIDE_GENDER]  # which is in no figure of the paper


def featured(lab: Lab) -> list[Cell]:
    """The two Gender cells of Figure 9."""
    return [c for c in contest(lab) if c.attribute == "Gender"]


def shown(lab: Lab) -> Cell:
    """The first of `featured` among whose test pictures are any that a figure may show: of MUCT few people may be shown."""
    return next(c for c in featured(lab) if len(style.showable(lab.faces(c.data, c.protocol), lab.splits(c)[2].rows)))


def labelled(lab: Lab, cell: Cell, budget: int, draw: int) -> tuple[Split, Split]:
    """Fitting and validation images when only `budget` have a label; a quarter of them serve validation.

    Drawn at random, the smaller budget a part of the larger, with the classes in proportion in both parts. Budget 0: all that
    the cell has.
    """
    fit, val, _ = lab.splits(cell)
    if not 0 < budget < len(fit):
        return fit, val
    rows = rng(draw, cell.data, "labels").permutation(fit.rows)
    y = pd.Series(lab.of_cell(cell, rows).labels.numpy())
    place = (y.groupby(y).cumcount() + 0.5) / y.groupby(y).transform("size")
    order = np.argsort(place.to_numpy(), kind="stable")[:budget]
    rows, held = rows[order], np.zeros(budget, bool)
    held[np.argsort(y[order], kind="stable")[3::4]] = True  # class by class, as every fourth of `rows` might be of one
    return lab.of_cell(cell, np.sort(rows[~held])), lab.of_cell(cell, np.sort(rows[held]))


def _schedule(lab: Lab, cell: Cell, count: int) -> Settings:
    """As many steps as with all labels, whatever the number of images: fewer images are gone through more often."""
    settings = settings_of(lab.profile)
    rounds, draws = settings.schedule(len(lab.splits(cell)[0]))
    return replace(settings, batch_size=min(settings.batch_size, count), steps=rounds * draws * settings.inner_steps)


def _kept(make: Callable[[], Tensor], lab: Lab, cell: Cell, **key: Any) -> Tensor:
    """The scores that `make` returns, from the cache where they were computed before."""
    return artefacts.tensors("studies", 1, dict(**lab.fit_key(cell), **key), lambda: {"scores": make()})["scores"]


def _tune_head(
    lab: Lab, cell: Cell, model: TorchClassifier, fit: Labelled, val: Labelled, epochs: int, seed: int
) -> nn.Sequential:
    """Model fine-tuning of the head on features and labels, as the paper's 'Implementation Details' have it.

    Raises `DataError` where the backbone isn't frozen.
    """
    if lab.profile.backbone == "convnet":
        raise DataError("'convnet' is trained anew for each classifier, so no head stands alone: choose another backbone.")
    scale = lab.features(cell.model, cell.protocol)[lab.source(cell).rows]
    head = copy.deepcopy(cast(nn.Sequential, model.net.head)).cpu().requires_grad_(True)
    return training.train_nnet(*fit, *val, epochs, lab.profile.head_learning_rate, seed, head, scale)


def by_data(lab: Lab, cell: Cell, fit: Split, val: Split, **key: Any) -> Tensor:
    """Test scores n x 2 after data fine-tuning on these labelled images."""
    found = lab.fitted(cell, _schedule(lab, cell, len(fit)), (fit, val), **key)
    return under(lab.model(cell), found, lab.splits(cell)[2].images)


def by_head(lab: Lab, cell: Cell, fit: Split, val: Split, **key: Any) -> Tensor:
    """Test scores n x 2 after model fine-tuning of the head: Adam, the profile's learning rate, and as many steps as its epochs
    have with all labels.
    """
    x = lab.features(cell.data, cell.protocol)
    known, known_val = ((x[split.rows], split.labels) for split in (fit, val))
    whole, steps = (-(-len(split) // training.BATCH) for split in (lab.splits(cell)[0], fit))  # of an epoch
    head = _tune_head(lab, cell, lab.model(cell), known, known_val, lab.profile.head_epochs * whole // steps, cell.seed)
    with torch.inference_mode():
        return cast(Tensor, head(x[lab.splits(cell)[2].rows])).softmax(1)


def by_all_layers(lab: Lab, cell: Cell, fit: Split, val: Split, **key: Any) -> Tensor:
    """Test scores n x 2 after model fine-tuning of backbone and head, with as many images seen as data fine-tuning."""
    schedule = _schedule(lab, cell, len(fit))
    net = copy.deepcopy(cast(backbones.AttributeNet, lab.model(cell).net))
    how = (max(1, round(schedule.steps * schedule.batch_size / len(fit))), ALL_LAYERS_RATE, cell.seed, lab.device)
    training.train_network(net, fit.images, fit.labels, val.images, val.labels, *how, fresh=False, dtype=lab.dtype)
    return TorchClassifier(net, lab.device).scores(lab.splits(cell)[2].images)


METHODS = {"data": by_data, "head": by_head, "all layers": by_all_layers}


def label_budget(lab: Lab) -> pd.DataFrame:
    """Figures 9 and 10: test accuracy by method, number of labelled images and draw of them (percent, `measured`).

    `labels` counts fitting and validation images together: every method has the same ones.
    """
    runs = [
        (cell, budget, draw)
        for cell in contest(lab)
        for budget in lab.profile.label_budgets
        for draw in range(lab.profile.label_draws if 0 < budget < 256 else 1)  # larger budgets vary less, and take longer
    ]
    rows = []
    for cell, budget, draw in tqdm(runs, desc="label budgets", unit="run"):
        (fit, val), key = labelled(lab, cell, budget, draw), {"budget": budget, "draw": draw, "held": "in proportion"}
        for name, method in METHODS.items():
            if name == "data" and not budget:
                scores = lab.outcome(cell).scores["after"]
            else:
                rate = {"rate": ALL_LAYERS_RATE} if name == "all layers" else {}
                scores = _kept(partial(method, lab, cell, fit, val, **key), lab, cell, method=name, **key, **rate)
            said = {"method": name, "labels": len(fit) + len(val), "all": budget == 0, "draw": draw}
            rows.append({**said, **measured(lab, cell, scores)})
    return pd.DataFrame(rows)


def measured(lab: Lab, cell: Cell, after: Tensor, before: Tensor | None = None) -> Row:
    """Names of the cell, accuracy before and after on its test images, the rise, their intervals, and the discordant counts."""
    test = lab.splits(cell)[2]
    found = compare(lab.unperturbed(cell, cell.model, test) if before is None else before, after, test)
    row = {**asdict(cell), **found.row(), **found.balanced(), "auc": found.areas()["auc_after"]}
    return {name: value for name, value in row.items() if name != "table" and "balanced_rise" not in name}


def combination(lab: Lab) -> pd.DataFrame:
    """Test accuracy after each round of data fine-tuning alone, head fine-tuning alone, and the two in turn.

    A round is a `ROUNDS`-th of the passes that each way has in its own experiment: N, then the head on images with N.
    """
    rows = []
    runs = [(cell, way) for cell in featured(lab) for way in ("data", "head", "both")]
    for cell, way in tqdm(runs, desc="combination", unit="run"):
        start = lab.unperturbed(cell, cell.model, lab.splits(cell)[2])
        after = _kept(partial(_rounds, lab, cell, way), lab, cell, way=way, rounds=ROUNDS)
        for number, scores in enumerate([start, *after]):
            rows.append({"way": way, "round": number, **measured(lab, cell, scores)})
    return pd.DataFrame(rows)


def _rounds(lab: Lab, cell: Cell, way: str) -> Tensor:
    """Test scores, rounds x n x 2."""
    fit, val, test = lab.splits(cell)
    x, val_x = fit.images, val.images
    settings = settings_of(lab.profile)
    settings = replace(settings, steps=-(-settings.steps // ROUNDS), epochs=max(1, settings.epochs // ROUNDS))
    start = Perturbation(torch.zeros(x.shape[1:]), "clip" if way == "head" else settings.box)  # 'printed' isn't the identity at 0
    model, found, after = lab.model(cell), start, []
    for number in range(ROUNDS):
        seed = cell.seed + number
        if way != "head":
            found = gradient.fit(model, x, fit.labels, val_x, val.labels, settings, seed, start=found.n)
        if way != "data":
            tuned, val_tuned = (
                torch.cat([training.features(lab.body(), found.apply(batch), lab.device) for batch in batches(part)])
                for part in (x, val_x)
            )
            epochs = max(1, lab.profile.head_epochs // ROUNDS)
            head = _tune_head(lab, cell, model, (tuned, fit.labels), (val_tuned, val.labels), epochs, seed)
            model = TorchClassifier(backbones.AttributeNet(lab.body(), head), lab.device, lab.dtype)
        after.append(under(model, found, test.images))
    return torch.stack(after)


def _compared(lab: Lab, cell: Cell, found: Perturbation) -> dict[str, float]:
    """PSNR (dB), SSIM and PASS, means over at most `COMPARED` test images."""
    rows = some(lab.splits(cell)[2].rows, COMPARED, rng(0, "compared"))
    plain = to_float(lab.of_cell(cell, rows).images, torch.device("cpu"))
    changed = found.apply(plain)
    measures = {"psnr": similarity.psnr, "ssim": similarity.ssim, "pass": similarity.pass_score}
    return {name: float(measure(plain, changed).mean()) for name, measure in measures.items()}


def _tried(lab: Lab, cell: Cell, settings: Settings) -> Row:
    """A cell fitted with other settings: what `measured` and `_compared` say, and the steps, round and temperature of the fit."""
    found = lab.fitted(cell, settings)
    rounds, draws = settings.schedule(len(lab.splits(cell)[0]))
    fit = {"steps": rounds * draws * settings.inner_steps, "epoch": found.about["epoch"], "temperature": found.about["fitted_at"]}
    return {**measured(lab, cell, _scored(lab, cell, found, lab.splits(cell)[2])), **_compared(lab, cell, found), **fit}


def frontier(lab: Lab) -> pd.DataFrame:
    """Accuracy against distortion on the two featured cells, by weight of the distance and by limit on the PSNR.

    `rule` is 'mean' (weight x squared norm averaged over pixels), 'sum' (summed, weight 1: as printed) or 'limit' (`min_psnr`).
    """
    own = settings_of(lab.profile)
    free = replace(own, min_psnr=0.0)
    tried = [("mean", w, replace(free, weight=w)) for w in lab.profile.frontier_weights]
    tried += [("sum", 1.0, replace(free, distance="sum", weight=1.0))]
    tried += [("limit", p, replace(own, min_psnr=p)) for p in sorted({own.min_psnr, *lab.profile.frontier_limits} - {0.0})]
    runs = [(cell, *one) for cell in featured(lab) for one in tried]
    rows = []
    for cell, rule, value, settings in tqdm(runs, desc="frontier", unit="fit"):
        rows.append({"rule": rule, "value": value, **_tried(lab, cell, settings)})
    return pd.DataFrame(rows)


def ambiguities(lab: Lab) -> pd.DataFrame:
    """A row per open question, choice and featured cell: alignment, box map, temperature of the loss, classes weighed alike,
    steps, strength of N, file format, other classifiers.

    Accuracies in percent on test images, `measured`; distortion is that of the images as the classifier gets them.
    """
    runs = [(cell, *asked) for cell in featured(lab) for asked in QUESTIONS.items()]
    rows = []
    for cell, question, answers in tqdm(runs, desc="open questions", unit="question"):
        rows += [{"question": question, "choice": choice, **row} for choice, row in answers(lab, cell)]
    return pd.DataFrame(rows)


def _settings(choices: dict[str, Row], lab: Lab, cell: Cell) -> Choices:
    """The fit with each of these changes of its settings."""
    return [(name, _tried(lab, cell, replace(settings_of(lab.profile), **changes))) for name, changes in choices.items()]


def _alignment(lab: Lab, cell: Cell) -> Choices:
    """Images and the classifier's training images cut alike, the classifier trained anew."""
    for way, name in reversed(tables.alignments(lab).items()):
        run = lab.other(align=way)
        test = run.splits(cell)[2]
        before = run.unperturbed(cell, cell.model, test)
        yield name, measured(run, cell, _scored(run, cell, run.fitted(cell), test), before)


def _steps(lab: Lab, cell: Cell) -> Choices:
    if cell.data != lab.profile.datasets[2]:
        return  # the long fit is worth its time on the smallest data set, where it is likeliest to learn too much
    own = _schedule(lab, cell, len(lab.splits(cell)[0]))
    for part in (0.25, 0.5, 1.0, 2.0):
        yield f"{part:g} x", _tried(lab, cell, replace(own, steps=round(part * own.steps)))


def _strength(lab: Lab, cell: Cell) -> Choices:
    found, test = lab.fitted(cell), lab.splits(cell)[2]
    for name, factor in (("half", 0.5), ("full", 1.0), ("double", 2.0)):
        scaled = found.with_n(factor * found.n)
        yield name, {**measured(lab, cell, _scored(lab, cell, scaled, test)), **_compared(lab, cell, scaled)}


def _file_format(lab: Lab, cell: Cell) -> Choices:
    o = lab.outcome(cell)
    for name in ("after", "after_8bit", "after_jpeg95"):
        yield name.removeprefix("after_").replace("after", "float"), measured(lab, cell, o.scores[name])

    def coarse() -> Tensor:
        return lab.model(cell).scores(baselines.jpeg(o.perturbation.apply_uint8(o.test.images), COARSE))

    yield f"jpeg{COARSE}", measured(lab, cell, _kept(coarse, lab, cell, jpeg=COARSE))


def _other_classifier(lab: Lab, cell: Cell) -> Choices:
    """N as fitted, on the images that it was fitted for, but before another classifier of the same attribute."""
    found, test = lab.fitted(cell), lab.splits(cell)[2]
    third = next(name for name in lab.profile.datasets if name not in (cell.data, cell.model))
    others = {
        "its own": (lab, cell),
        "same training, another seed": (lab, replace(cell, seed=cell.seed + 1)),
        "trained on a third data set": (lab, replace(cell, model=third)),
        "trained on these pictures": (lab, replace(cell, model=cell.data)),
    }
    if lab.profile.backbone != "convnet":
        others["same data, another network"] = (lab.other(**SCRATCH), cell)
    for name, (run, other) in others.items():
        before = run.unperturbed(other, other.model, test)
        yield name, measured(lab, cell, _scored(run, other, found, test), before)


def _scored(run: Lab, other: Cell, found: Perturbation, test: Split) -> Tensor:
    """Scores of these images under this perturbation by the classifier of `run` and `other`."""
    images = test.images
    key = {"perturbation": content(found.n.numpy()), "box": found.box, "pictures": content(images)}
    return _kept(lambda: under(run.model(other), found, images), run, other, **key)


QUESTIONS: dict[str, Callable[[Lab, Cell], Choices]] = {
    "alignment": _alignment,
    # At N = 0 the printed map is below any limit already.
    "box map": partial(
        _settings, {"atanh": {"box": "atanh"}, "clip": {"box": "clip"}, "printed": {"box": "printed", "min_psnr": 0.0}}
    ),
    "temperature": partial(_settings, {"by the margins": {"temperature": 0.0}, "1, as printed": {"temperature": 1.0}}),
    "classes": partial(_settings, {"as frequent as they are": {"balance": False}, "weighed alike": {"balance": True}}),
    "steps": _steps,
    "strength": _strength,
    "file format": _file_format,
    "other classifier": _other_classifier,
}
