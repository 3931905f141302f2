"""What decides an artefact stands in its key, and nothing else: fields of a profile, numbers of the modules that compute."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from asked_keys import asked_key

from dftlib import artefacts
from dftlib.experiments import ablations, lab
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell
from dftlib.experiments.profile import Profile
from dftlib.models import training
from dftlib.perturbation import gradient

CELL = Cell(5, "Gender", "webcam", "studio", "subject", 0)


def give(result: Any) -> Callable[..., Any]:
    return lambda *_, **__: result


# By artefact: what asks for it, and what stands meanwhile in the place of whatever it is made of.
MEASURED = SimpleNamespace(cell=CELL, test=None, perturbation=None, scores=dict.fromkeys(("after", "after_8bit", "after_jpeg95")))
ONE = {(ablations, "featured"): give([CELL]), (ablations, "contest"): give([CELL])}
ASKS: dict[str, tuple[Callable[[Lab], object], dict[tuple[Any, str], Any]]] = {
    "features": (lambda run: run.features("webcam", "subject"), {}),
    "classifiers": (
        lambda run: run.model(CELL),
        {(Lab, "body"): give(torch.nn.Identity()), (Lab, "features"): give(torch.zeros(1, 8))},
    ),
    "perturbations": (lambda run: run.fitted(CELL), {}),
    "shuffled": (lambda run: run.shuffled(CELL), {}),
    "scores": (lambda run: run.outcome(CELL), {(Lab, "fitted"): give(None)}),
    "controls": (lambda run: run.controlled(MEASURED), {}),  # type: ignore[arg-type]
    "all layers": (ablations.label_budget, {**ONE, (ablations, "METHODS"): {"all layers": give(None)}}),
    "rounds": (ablations.combination, {**ONE, (Lab, "unperturbed"): give(None)}),
    "jpeg": (
        lambda run: list(ablations._file_format(run, CELL)),
        {(Lab, "outcome"): give(MEASURED), (ablations, "measured"): give({})},
    ),
}
EVERY = set(ASKS)
TRAINED, FITTED = EVERY - {"features"}, EVERY - {"features", "classifiers"}
# By field another value, and the artefacts that it makes others of.
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "size": (80, EVERY), "align": ("none", EVERY), "backbone": ("convnet", EVERY), "seeds": ((1,), EVERY),  # drawn by the first
    "n_train": (50, TRAINED), "n_val": (9, TRAINED), "head_epochs": (9, TRAINED), "head_learning_rate": (0.5, TRAINED),
    "n_fit": (9, FITTED), "n_test": (9, FITTED), "precision": ("bfloat16", FITTED),
    "box": ("clip", FITTED), "distance": ("sum", FITTED), "weight": (2.0, FITTED), "min_psnr": (20.0, FITTED),
    "temperature": (0.5, FITTED), "balance": (True, FITTED), "optimiser": ("adam", FITTED), "mirror": (False, FITTED),
    "learning_rate": (0.1, FITTED), "batch_size": (7, FITTED), "inner_steps": (3, FITTED), "steps": (9, FITTED),
    "epochs": (9, FITTED), "patience": (9, FITTED),
    "label_budgets": ((9,), {"all layers"}),
    # Only choose what is computed: cells, settings and budgets, which stand in keys themselves.
    "profile": ("mine", set()), "datasets": (("webcam", "press", "studio"), set()), "protocols": (("paper",), set()),
    "every_seed": (True, set()), "label_draws": (9, set()), "frontier_weights": ((9.0,), set()),
    "frontier_limits": ((9.0,), set()), "query_datasets": (("press",), set()), "query_budgets": ((9,), set()),
    "encoder": ("convnet", set()),
    # Where data, weights (known by content) and processor are.
    "data_root": ("/elsewhere", set()), "weights": ("/elsewhere", set()), "device": ("cpu", set()),
    # Of notebooks 07 to 09, whose keys test_robustness.py goes through.
    "attribute_data": ("press", set()), "attribute_shape": ((9, 9), set()), "attribute_network": ("vgg16", set()),
    "attribute_epochs": (9, set()), "attribute_learning_rate": (0.5, set()), "attribute_batch": (9, set()), "n_flip": (9, set()),
}  # fmt: skip
NUMBERS: dict[ModuleType, dict[str, tuple[Any, set[str]]]] = {
    gradient: {name: (9, FITTED) for name in ("POOL", "PROBED", "MARGINS", "ROUNDS")},
    training: {"BATCH": (9, TRAINED)},
    lab: {"GAINS": ((0.5,), {"scores"}), "TRIED": (9, {"scores"})},
    ablations: {
        "ALL_LAYERS_RATE": (0.5, {"all layers"}), "ROUNDS": (9, {"rounds"}), "COARSE": (9, {"jpeg"}),
        "COMPARED": (9, set()),  # measured anew each time
    },
}  # fmt: skip


def keys(run: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By artefact its key; nothing is computed."""
    found = {}
    for images in ("webcam", "studio"):
        for way in (run, run.other(align="none")):
            way.faces(images, "subject")  # drawn and aligned before: they are artefacts too
    for name, (ask, instead) in ASKS.items():
        with monkeypatch.context() as patch:
            for (owner, attribute), value in instead.items():
                patch.setattr(owner, attribute, value)
            found[name] = asked_key(partial(ask, run), patch)
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.fixture(scope="module")
def plain(few_faces: Lab) -> Lab:
    return few_faces.other(precision="float32")


@pytest.mark.parametrize("name", [f.name for f in fields(Profile)])
def test_a_field_of_the_profile_is_in_the_keys_of_what_it_changes(name: str, plain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    value, wanted = FIELDS[name]
    assert getattr(plain.profile, name) != value
    assert changed(keys(plain, monkeypatch), keys(plain.other(**{name: value}), monkeypatch)) == wanted


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NUMBERS.items() for name in names])
def test_a_number_of_the_code_is_in_the_keys_of_what_it_changes(
    module: ModuleType, name: str, plain: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, (value, wanted) = keys(plain, monkeypatch), NUMBERS[module][name]
    monkeypatch.setattr(module, name, value)
    assert changed(before, keys(plain, monkeypatch)) == wanted


@pytest.mark.parametrize("module", NUMBERS)
def test_no_number_of_the_code_is_forgotten(module: ModuleType) -> None:
    def number(value: object) -> bool:
        return isinstance(value, int | float) or (isinstance(value, tuple) and all(map(number, value)))

    assert {name for name, value in vars(module).items() if name.isupper() and number(value)} == set(NUMBERS[module])


def test_a_weight_file_is_known_by_its_content(plain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(plain, monkeypatch)
    monkeypatch.setattr(Lab, "weights", give("of another file"))
    assert changed(before, keys(plain, monkeypatch)) == EVERY


def test_a_key_is_of_kind_version_and_numbers() -> None:
    assert artefacts.digest("kind", 1, {"a": 1}) == artefacts.digest("kind", 1, {"a": 1})
    others = {artefacts.digest(kind, version, {}) for kind, version in (("kind", 1), ("kind", 2), ("other", 1))}
    assert len(others) == 3
