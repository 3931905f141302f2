"""What notebooks 04 and 05 measure: how many labels it takes, both ways combined, and what the paper leaves open."""

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dftlib import evaluation, experiments, models, perturbation, similarity, store, tables, training
from dftlib.classifiers import TorchClassifier, batches, to_float
from dftlib.config import Profile, device_of, dtype_of, rng
from dftlib.experiments import CODE, Cell
from dftlib.perturbation import Perturbation, Settings
from dftlib.progress import tqdm

ALL_LAYERS_RATE = 0.0001  # the 0.005 that the paper gives its head throws a whole pretrained network off
ROUNDS = 4
COMPARED = 256  # test pictures on which PSNR, SSIM and PASS are measured

Rows = NDArray[np.int64]
Labelled = tuple[Tensor, Tensor]  # features n x F, labels n


def contest(profile: Profile) -> list[Cell]:
    """The cells of Figures 9 and 10: pictures of the first and third data set, by the model trained on the second."""
    first, second, third = profile.datasets
    return [c for c in experiments.main(profile, 5, 6) if c.model == second and c.data in (first, third)]


def featured(profile: Profile) -> list[Cell]:
    """The two Gender cells of Figure 9."""
    return [c for c in contest(profile) if c.attribute == "Gender"]


def labelled(profile: Profile, cell: Cell, budget: int, draw: int) -> tuple[Rows, Rows]:
    """Fitting and validation rows when only `budget` pictures have a label; a quarter of them serve validation.

    Drawn at random with the classes in proportion, the smaller budget a part of the larger. Budget 0: all that the cell has.
    """
    rows = experiments.fit_rows(profile, cell)
    if not 0 < budget < len(rows):
        return rows, experiments.val_rows(profile, cell)
    rows = rng(draw, cell.data, "labels").permutation(rows)
    y = pd.Series(experiments.labels_of(profile, cell.data, cell.attribute, rows, cell.protocol).numpy())
    place = (y.groupby(y).cumcount() + 0.5) / y.groupby(y).transform("size")
    rows = rows[np.argsort(place.to_numpy(), kind="stable")[:budget]]
    val = np.arange(budget) % 4 == 3
    return np.sort(rows[~val]), np.sort(rows[val])


def _schedule(profile: Profile, cell: Cell, count: int) -> Settings:
    """As many steps as with all labels, whatever the number of pictures: fewer pictures are gone through more often."""
    settings = experiments.settings_of(profile)
    rounds, draws = settings.schedule(len(experiments.fit_rows(profile, cell)))
    return replace(settings, batch_size=min(settings.batch_size, count), steps=rounds * draws * settings.inner_steps)


def _kept(make: Callable[[], Tensor], profile: Profile, cell: Cell, **key: Any) -> Tensor:
    """The scores that `make` returns, from the cache where they were computed before."""
    known = {**experiments.fit_key(profile, cell), **key}
    return store.tensors("studies", known, lambda: {"scores": make()}, CODE)["scores"]


def _model(profile: Profile, cell: Cell) -> TorchClassifier:
    return experiments.classifier(profile, cell.model, cell.attribute, cell.protocol, cell.seed)


def _labels(profile: Profile, cell: Cell, rows: Rows) -> Tensor:
    return experiments.labels_of(profile, cell.data, cell.attribute, rows, cell.protocol)


def _images(profile: Profile, cell: Cell, rows: Rows) -> NDArray[np.uint8]:
    return experiments.faces(profile, cell.data, cell.protocol).images[rows]


def _tune_head(
    profile: Profile, cell: Cell, model: TorchClassifier, fit: Labelled, val: Labelled, epochs: int, seed: int
) -> nn.Sequential:
    """Model fine-tuning of the head on features and labels, as the paper's 'Implementation Details' have it."""
    source = experiments.rows_of(profile, cell.model, cell.attribute, "train", cell.protocol, cell.seed)
    scale = experiments.features(profile, cell.model, cell.protocol)[source]
    head = copy.deepcopy(cast(nn.Sequential, model.net.head)).cpu().requires_grad_(True)
    return training.train_nnet(*fit, *val, epochs, profile.head_learning_rate, seed, head, scale)


def by_data(profile: Profile, cell: Cell, fit: Rows, val: Rows, **key: Any) -> Tensor:
    """Test scores n x 2 after data fine-tuning on these labelled rows."""
    found = experiments.fit_cell(profile, cell, _schedule(profile, cell, len(fit)), (fit, val), **key)
    return experiments.under(_model(profile, cell), found, _images(profile, cell, experiments.test_rows(profile, cell)))


def by_head(profile: Profile, cell: Cell, fit: Rows, val: Rows, **key: Any) -> Tensor:
    """Test scores n x 2 after model fine-tuning of the head: Adam, the profile's epochs and learning rate."""
    x = experiments.features(profile, cell.data, cell.protocol)
    known, known_val = ((x[rows], _labels(profile, cell, rows)) for rows in (fit, val))
    head = _tune_head(profile, cell, _model(profile, cell), known, known_val, profile.head_epochs, cell.seed)
    with torch.inference_mode():
        return cast(Tensor, head(x[experiments.test_rows(profile, cell)])).softmax(1)


def by_all_layers(profile: Profile, cell: Cell, fit: Rows, val: Rows, **key: Any) -> Tensor:
    """Test scores n x 2 after model fine-tuning of backbone and head, with as many pictures seen as data fine-tuning."""
    device, schedule = device_of(profile), _schedule(profile, cell, len(fit))
    net = copy.deepcopy(cast(models.AttributeNet, _model(profile, cell).net))
    known, known_val = ((_images(profile, cell, rows), _labels(profile, cell, rows)) for rows in (fit, val))
    epochs = max(1, round(schedule.steps * schedule.batch_size / len(fit)))
    training.train_network(
        net, *known, *known_val, epochs, ALL_LAYERS_RATE, cell.seed, device, fresh=False, dtype=dtype_of(profile, device)
    )
    return TorchClassifier(net, device).scores(_images(profile, cell, experiments.test_rows(profile, cell)))


METHODS = {"data": by_data, "head": by_head, "all layers": by_all_layers}


def label_budget(profile: Profile) -> pd.DataFrame:
    """Figures 9 and 10: test accuracy by method, number of labelled pictures and draw of them (percent, `measured`).

    `labels` counts fitting and validation pictures together: every method has the same ones.
    """
    runs = [
        (cell, budget, draw)
        for cell in contest(profile)
        for budget in profile.label_budgets
        for draw in range(profile.label_draws if 0 < budget < 256 else 1)  # larger budgets vary less, and take longer
    ]
    rows = []
    for cell, budget, draw in tqdm(runs, desc="label budgets", unit="run"):
        fit, val = labelled(profile, cell, budget, draw)
        for name, method in METHODS.items():
            key = {"budget": budget, "draw": draw}
            if name == "data" and not budget:
                scores = experiments.outcome(profile, cell).after
            else:
                scores = _kept(partial(method, profile, cell, fit, val, **key), profile, cell, method=name, **key)
            said = {"method": name, "labels": len(fit) + len(val), "all": budget == 0, "draw": draw}
            rows.append({**said, **measured(profile, cell, scores)})
    return pd.DataFrame(rows)


def measured(profile: Profile, cell: Cell, after: Tensor, before: Tensor | None = None) -> dict[str, Any]:
    """Names of the cell, accuracy before and after on its test pictures, the rise, their intervals, and the discordant counts."""
    test = experiments.test_rows(profile, cell)
    y = _labels(profile, cell, test).numpy()
    before = experiments.unperturbed(profile, cell, cell.model, test) if before is None else before
    was, now = (scores.argmax(1).numpy() == y for scores in (before, after))
    names = {k: v for k, v in asdict(cell).items() if k != "table"}
    subjects = experiments.faces(profile, cell.data, cell.protocol).subjects[test]
    both = {"balanced_before": before, "balanced_after": after}
    balanced = {name: 100 * evaluation.balanced_accuracy(scores, y) for name, scores in both.items()}
    return {**names, **evaluation.compared(was, now, subjects), **balanced, "auc": evaluation.roc_area(after, y)}


def combination(profile: Profile) -> pd.DataFrame:
    """Test accuracy after each round of data fine-tuning alone, head fine-tuning alone, and the two in turn.

    A round is a `ROUNDS`-th of the passes that each way has in its own experiment: N, then the head on pictures with N.
    """
    rows = []
    runs = [(cell, way) for cell in featured(profile) for way in ("data", "head", "both")]
    for cell, way in tqdm(runs, desc="combination", unit="run"):
        start = experiments.unperturbed(profile, cell, cell.model, experiments.test_rows(profile, cell))
        after = _kept(partial(_rounds, profile, cell, way), profile, cell, way=way, rounds=ROUNDS)
        for number, scores in enumerate([start, *after]):
            rows.append({"way": way, "round": number, **measured(profile, cell, scores)})
    return pd.DataFrame(rows)


def _rounds(profile: Profile, cell: Cell, way: str) -> Tensor:
    """Test scores, rounds x n x 2."""
    known = (experiments.fit_rows(profile, cell), experiments.val_rows(profile, cell))
    x, val_x = (_images(profile, cell, rows) for rows in known)
    y, val_y = (_labels(profile, cell, rows) for rows in known)
    test_x = _images(profile, cell, experiments.test_rows(profile, cell))
    settings = experiments.settings_of(profile)
    settings = replace(settings, steps=settings.steps // ROUNDS, epochs=max(1, settings.epochs // ROUNDS))
    body, device = experiments.body(profile), device_of(profile)
    model, found, after = _model(profile, cell), Perturbation(torch.zeros(x.shape[1:]), settings.box), []
    for number in range(ROUNDS):
        seed = cell.seed + number
        if way != "head":
            found = perturbation.fit(model, x, y, val_x, val_y, settings, seed, start=found.n)
        if way != "data":
            tuned, val_tuned = (
                torch.cat([training.features(body, found.apply(batch), device) for batch in batches(part)]) for part in (x, val_x)
            )
            epochs = max(1, profile.head_epochs // ROUNDS)
            head = _tune_head(profile, cell, model, (tuned, y), (val_tuned, val_y), epochs, seed)
            model = TorchClassifier(models.AttributeNet(body, head), device, dtype_of(profile, device))
        after.append(experiments.under(model, found, test_x))
    return torch.stack(after)


def _compared(profile: Profile, cell: Cell, found: Perturbation) -> dict[str, float]:
    """PSNR (dB), SSIM and PASS, means over at most `COMPARED` test pictures."""
    test = experiments.test_rows(profile, cell)
    plain = to_float(_images(profile, cell, np.sort(rng(0, "compared").permutation(test)[:COMPARED])), torch.device("cpu"))
    pairs = (plain, found.apply(plain))
    measures = {"psnr": similarity.psnr, "ssim": similarity.ssim, "pass": similarity.pass_score}
    return {name: float(measure(*pairs).mean()) for name, measure in measures.items()}


def _tried(profile: Profile, cell: Cell, settings: Settings) -> dict[str, Any]:
    """A cell fitted with other settings: what `measured` and `_compared` say, and the steps, round and temperature of the fit."""
    found = experiments.fit_cell(profile, cell, settings)
    rounds, draws = settings.schedule(len(experiments.fit_rows(profile, cell)))
    fit = {"steps": rounds * draws * settings.inner_steps, "epoch": found.about["epoch"], "temperature": found.about["fitted_at"]}
    return {**measured(profile, cell, _scored(profile, cell, found, cell)), **_compared(profile, cell, found), **fit}


def frontier(profile: Profile) -> pd.DataFrame:
    """Accuracy against distortion on the two featured cells, by weight of the distance and by limit on the PSNR.

    `rule` is 'mean' (weight x squared norm averaged over pixels), 'sum' (summed, weight 1: as printed) or 'limit' (`min_psnr`).
    """
    own = experiments.settings_of(profile)
    free = replace(own, min_psnr=0.0)
    tried = [("mean", w, replace(free, weight=w)) for w in profile.frontier_weights]
    tried += [("sum", 1.0, replace(free, distance="sum", weight=1.0))]
    tried += [("limit", p, replace(own, min_psnr=p)) for p in sorted({own.min_psnr, *profile.frontier_limits} - {0.0})]
    runs = [(cell, *one) for cell in featured(profile) for one in tried]
    rows = []
    for cell, rule, value, settings in tqdm(runs, desc="frontier", unit="fit"):
        rows.append({"rule": rule, "value": value, **_tried(profile, cell, settings)})
    return pd.DataFrame(rows)


def ambiguities(profile: Profile) -> pd.DataFrame:
    """A row per open question, choice and featured cell: alignment, box map, temperature of the loss, classes weighed alike,
    steps, strength of N, file format, other classifiers.

    Accuracies in percent on test pictures, `measured`; distortion is that of the pictures as the classifier gets them.
    """
    rows = []
    for cell in tqdm(featured(profile), desc="open questions", unit="cell"):
        for question, choices in ((f.__name__.strip("_").replace("_", " "), f(profile, cell)) for f in QUESTIONS):
            rows += [{"question": question, "choice": choice, **row} for choice, row in choices]
    return pd.DataFrame(rows)


Choices = Iterable[tuple[str, dict[str, Any]]]


def _box_map(profile: Profile, cell: Cell) -> Choices:
    own = experiments.settings_of(profile)
    for box in ("atanh", "clip", "printed"):
        limit = own.min_psnr if box != "printed" else 0.0  # at N = 0 it is below any limit already
        yield box, _tried(profile, cell, replace(own, box=box, min_psnr=limit))


def _alignment(profile: Profile, cell: Cell) -> Choices:
    """Pictures and the classifier's training pictures cut alike, the classifier trained anew."""
    for way, name in reversed(tables.alignments(profile).items()):
        run = replace(profile, align=way)
        before = experiments.unperturbed(run, cell, cell.model, experiments.test_rows(run, cell))
        after = _scored(run, cell, experiments.fitted(run, cell), cell)
        yield name, measured(run, cell, after, before)


def _temperature(profile: Profile, cell: Cell) -> Choices:
    for value, name in ((0.0, "by the margins"), (1.0, "1, as printed")):
        yield name, _tried(profile, cell, replace(experiments.settings_of(profile), temperature=value))


def _classes(profile: Profile, cell: Cell) -> Choices:
    for balance, name in ((False, "as frequent as they are"), (True, "weighed alike")):
        yield name, _tried(profile, cell, replace(experiments.settings_of(profile), balance=balance))


def _steps(profile: Profile, cell: Cell) -> Choices:
    if cell.data != profile.datasets[2]:
        return  # the long fit is worth its time on the smallest data set, where it is likeliest to learn too much
    own = _schedule(profile, cell, len(experiments.fit_rows(profile, cell)))
    for part in (0.25, 0.5, 1.0, 2.0):
        yield f"{part:g} x", _tried(profile, cell, replace(own, steps=round(part * own.steps)))


def _strength(profile: Profile, cell: Cell) -> Choices:
    found = experiments.fitted(profile, cell)
    for name, factor in (("half", 0.5), ("full", 1.0), ("double", 2.0)):
        scaled = replace(found, n=factor * found.n)
        scores = _scored(profile, cell, scaled, cell)
        yield name, {**measured(profile, cell, scores), **_compared(profile, cell, scaled)}


def _file_format(profile: Profile, cell: Cell) -> Choices:
    o = experiments.outcome(profile, cell)
    for name in ("after", "after_8bit", "after_jpeg95"):
        yield name.removeprefix("after_").replace("after", "float"), measured(profile, cell, o.scores[name])

    def coarse() -> Tensor:
        whole = o.perturbation.apply_uint8(_images(profile, cell, o.test_rows))
        return _model(profile, cell).scores(evaluation.jpeg(whole, 75))

    yield "jpeg75", measured(profile, cell, _kept(coarse, profile, cell, jpeg=75))


def _other_classifier(profile: Profile, cell: Cell) -> Choices:
    """N as fitted, on the pictures that it was fitted for, but before another classifier of the same attribute."""
    found = experiments.fitted(profile, cell)
    third = next(name for name in profile.datasets if name not in (cell.data, cell.model))
    others = {
        "its own": (profile, cell),
        "same training, another seed": (profile, replace(cell, seed=cell.seed + 1)),
        "trained on a third data set": (profile, replace(cell, model=third)),
        "trained on these pictures": (profile, replace(cell, model=cell.data)),
    }
    if profile.backbone != "convnet":
        others["same data, another network"] = (replace(profile, **experiments.SCRATCH), cell)
    test = experiments.test_rows(profile, cell)
    for name, (run, other) in others.items():
        before = experiments.unperturbed(run, other, other.model, test)
        yield name, measured(profile, cell, _scored(run, other, found, cell), before)


def _scored(run: Profile, other: Cell, found: Perturbation, cell: Cell) -> Tensor:
    """Scores of the cell's test pictures under this perturbation by the classifier of `run` and `other`."""
    images = _images(run, cell, experiments.test_rows(run, cell))
    n = hashlib.sha256(found.n.numpy().tobytes()).hexdigest()
    return _kept(lambda: experiments.under(_model(run, other), found, images), run, other, n=n, box=found.box)


QUESTIONS = (_alignment, _box_map, _temperature, _classes, _steps, _strength, _file_format, _other_classifier)
