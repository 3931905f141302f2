"""What decides an artefact stands in its key: every number of a profile and of the modules that compute."""

from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest

from dftlib import artefacts
from dftlib.experiments import ablations, lab
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell
from dftlib.experiments.profile import Profile, load_profile
from dftlib.models import training
from dftlib.perturbation import gradient

CELL = Cell(5, "Gender", "webcam", "studio", "subject", 0)
FREE = {
    "profile", "seeds", "protocols",  # choose cells, which name their own
    "data_root", "device",  # where it is computed; images are known by content
    "weights",  # of vggface alone, known by content
    "precision",  # by the type that it leads to
    "label_budgets", "label_draws", "frontier_weights", "frontier_limits", "query_datasets", "query_budgets",  # choose rows
    "attribute_data", "attribute_shape", "attribute_network", "attribute_epochs", "attribute_learning_rate", "attribute_batch",
    "n_flip",  # of notebooks 07 to 09: test_robustness.py
    "align", "datasets",  # by the images
}  # fmt: skip
OTHER: dict[str, Any] = {
    "backbone": "convnet", "box": "clip", "distance": "sum", "optimiser": "adam", "balance": True, "mirror": False,
}  # fmt: skip


class StoppedError(Exception):
    pass


def keys(run: Lab, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of a cell: of its classifier, perturbation, scores and studies; nothing is computed."""
    found = [str(run.fit_key(CELL))]
    ends = {"scores": lambda: run.outcome(CELL), "studies": lambda: ablations.combination(run)}
    with monkeypatch.context() as patch:
        patch.setattr(Lab, "fitted", lambda *_, **__: None)
        patch.setattr(Lab, "unperturbed", lambda *_, **__: None)
        for wanted, work in ends.items():

            def seen(kind: str, version: int, key: Any, make: Any, wanted: str = wanted) -> Any:
                assert kind == wanted
                found.append(f"{kind} {version} {key}")
                raise StoppedError

            patch.setattr(artefacts, "tensors", seen)
            with pytest.raises(StoppedError):
                work()
    return found


@pytest.mark.parametrize("name", [f.name for f in fields(Profile) if f.name not in FREE])
def test_every_number_of_a_profile_stands_in_the_keys(name: str, few_faces: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    own = getattr(few_faces.profile, name)
    other = Lab(load_profile("demo", **{name: OTHER.get(name, own + 1 if not isinstance(own, bool | str) else None)}))
    plain = Lab(load_profile("demo"))
    for run in (plain, other):
        run.memory |= {("signature", *pair): "0" for pair in ((CELL.data, CELL.protocol), (CELL.model, CELL.protocol))}
        run.memory[("weights",)] = ""
    if name == "size":
        assert plain.training_key("studio", "Gender", "subject", 0) != other.training_key("studio", "Gender", "subject", 0)
    else:
        assert str(plain.fit_key(CELL)) != str(other.fit_key(CELL))


NUMBERS: list[tuple[ModuleType, str]] = [
    (gradient, "POOL"), (gradient, "PROBED"), (gradient, "MARGINS"), (gradient, "ROUNDS"), (training, "BATCH"), (lab, "GAINS"),
    (lab, "TRIED"), (ablations, "ROUNDS"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), NUMBERS, ids=[f"{m.__name__.split('.')[-1]}.{n}" for m, n in NUMBERS])
def test_every_number_of_the_code_stands_in_the_keys(
    module: ModuleType, name: str, few_faces: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, own = keys(few_faces, monkeypatch), getattr(module, name)
    monkeypatch.setattr(module, name, (*own, 2.0) if isinstance(own, tuple) else own + 1)
    assert keys(few_faces, monkeypatch) != before


@pytest.mark.parametrize("module", [gradient, training, lab])
def test_no_number_of_the_code_is_forgotten(module: ModuleType) -> None:
    names = {n for n, v in vars(module).items() if n.isupper() and isinstance(v, int | float | tuple) and not n.startswith("_")}
    words = {"ROLES", "REMEDIES", "ON_N"}  # names of rows and columns
    assert names - words == {n for m, n in NUMBERS if m is module}


def test_a_key_is_of_kind_version_and_numbers() -> None:
    assert artefacts.digest("kind", 1, {"a": 1}) == artefacts.digest("kind", 1, {"a": 1})
    others = {artefacts.digest(kind, version, {}) for kind, version in (("kind", 1), ("kind", 2), ("other", 1))}
    assert len(others) == 3
