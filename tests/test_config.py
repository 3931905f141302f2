"""Profiles and what a user lays over them: every mistake is named, nothing is silently ignored."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from dftlib import paths, seeds
from dftlib.errors import DataError
from dftlib.experiments import profile
from dftlib.experiments.profile import Profile, device_of, dtype_of, from_notebook, load_profile, overridden

PROFILES = sorted(p.stem for p in paths.PROFILES.glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DFT_DATA", raising=False)


def test_whole_numbers_are_taken_where_any_are() -> None:
    assert load_profile("demo", frontier_weights=[1, 10.5]).frontier_weights == (1.0, 10.5)


def test_the_four_profiles_are_there() -> None:
    assert {"demo", "identity", "small", "paper"} <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.profile == name
    assert overridden(profile) == []
    assert len(profile.datasets) == 3
    assert profile.protocols
    assert profile.seeds
    for field in dataclasses.fields(Profile):
        value = getattr(profile, field.name)
        assert isinstance(value, tuple if str(field.type).startswith("tuple") else field.type)  # type: ignore[arg-type]
    hash(profile)  # results are kept by profile


def test_the_paper_profile_has_the_papers_numbers() -> None:
    """Section 'Implementation Details' of Data Fine-tuning."""
    paper = load_profile("paper")
    assert paper.datasets == ("lfw", "celeba", "muct")
    assert (paper.size, paper.backbone) == (224, "vggface")
    assert (paper.learning_rate, paper.batch_size, paper.inner_steps, paper.epochs) == (0.001, 800, 16, 5)
    assert (paper.optimiser, paper.mirror, paper.min_psnr) == ("adam", False, 0)
    assert (paper.temperature, paper.balance, paper.steps) == (1, False, 0)
    assert (paper.head_epochs, paper.head_learning_rate) == (20, 0.005)
    assert (paper.n_train, paper.n_fit, paper.n_val, paper.n_test) == (0, 0, 0, 0)
    assert paper.protocols[0] == "paper"
    assert not paper.synthetic
    assert load_profile("demo").synthetic


@pytest.mark.parametrize(("typo", "meant"), [("epoch", "epochs"), ("n_tests", "n_test"), ("learningrate", "learning_rate")])
def test_a_typo_is_named_with_what_was_meant(typo: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"Unknown parameter '{typo}'; did you mean '{meant}'"):
        load_profile("demo", **{typo: 1})


def test_an_unknown_parameter_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'zzz'; the parameters are profile, .*patience"):
        load_profile("demo", zzz=1)


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="no profile 'dmeo': choose one of demo, identity, paper, small"):
        load_profile("dmeo")


def test_a_profile_without_a_field_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = (paths.PROFILES / "demo.yaml").read_text().splitlines()
    (tmp_path / "demo.yaml").write_text("\n".join(line for line in lines if not line.startswith("weight:")))
    monkeypatch.setattr(profile, "PROFILES", tmp_path)
    with pytest.raises(DataError, match="'demo' lacks weight"):
        load_profile("demo")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"),
        ("epochs", None),
        ("epochs", 2.5),
        ("weight", [1]),
        ("weight", "heavy"),
        ("seeds", ["a"]),
        ("datasets", ["press", "studio"]),
        ("precision", "float16"),
        ("device", "gpu"),
        ("device", "cpu:x"),
        ("weight", math.nan),
        ("n_fit", -1),
        ("mirror", "perhaps"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(DataError, match=f"'{name}'"):
        device_of(load_profile("demo", **{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", "7", 7),
        ("weight", 2, 2.0),
        ("seeds", [3, 4], (3, 4)),
        ("seeds", 5, (5,)),
        ("protocols", "paper", ("paper",)),
        ("mirror", False, False),
    ],
)
def test_a_value_takes_the_type_of_its_field(name: str, value: object, wanted: object) -> None:
    found = getattr(load_profile("demo", **{name: value}), name)
    assert found == wanted
    assert type(found) is type(wanted)


def test_overridden_names_what_changes_results() -> None:
    profile = load_profile("demo", epochs=2, weight=1, data_root="there", device="cpu", weights="other.pth")
    assert overridden(profile) == ["epochs"]


def helper() -> None:
    """Stands for a function that a notebook imports."""


def test_a_notebook_lays_its_variables_over_the_profile() -> None:
    namespace = {
        "__name__": "__main__", "_i1": "x", "In": [], "Out": {}, "exit": 1, "quit": 1, "get_ipython": len, "open": open,
        "torch": torch, "helper": helper, "Profile": Profile, "profile": "small", "epochs": 3, "box": "clip",
    }  # fmt: skip
    assert from_notebook(namespace) == load_profile("small", epochs=3, box="clip")
    assert namespace["profile"] == "small"


def test_a_notebook_without_a_profile_is_the_demonstration() -> None:
    assert from_notebook({}) == load_profile("demo")


@pytest.mark.parametrize("name", ["epoch", "Epochs", "rubbish"])
def test_a_notebooks_unknown_variable_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"Unknown parameter '{name}'"):
        from_notebook({"profile": "demo", name: 3})


def test_where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameter, else the environment variable, else the profile."""
    monkeypatch.setenv("DFT_DATA", "from the environment")
    assert from_notebook({}).data_root == "from the environment"
    assert from_notebook({"data_root": ""}).data_root == "from the environment"
    assert from_notebook({"data_root": "given"}).data_root == "given"
    monkeypatch.delenv("DFT_DATA")
    assert from_notebook({"data_root": ""}).data_root == ""


def test_devices() -> None:
    assert device_of(load_profile("demo", device="cpu")) == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert device_of(load_profile("demo", device="auto")) == torch.device(wanted)


def test_a_missing_graphics_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="set device to 'cpu' or 'auto'"):
        device_of(load_profile("demo", device="cuda:1"))


@pytest.mark.parametrize(("bf16", "amx"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("used", ["AVX512", "AVX2", "DEFAULT"])
def test_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, used: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    cpu = torch.device("cpu")
    assert dtype_of(load_profile("demo"), cpu) == (torch.bfloat16 if (bf16 or amx) and used == "AVX512" else torch.float32)
    assert dtype_of(load_profile("demo", precision="float32"), cpu) == torch.float32
    assert dtype_of(load_profile("demo", precision="bfloat16"), cpu) == torch.bfloat16


def test_random_numbers_depend_on_the_words_alone() -> None:
    first = seeds.rng(3, "fit").integers(0, 1000, 8).tolist()
    seeds.rng(4).random(5)
    assert seeds.rng(3, "fit").integers(0, 1000, 8).tolist() == first
    assert seeds.rng(3, "tif").integers(0, 1000, 8).tolist() != first
    assert torch.equal(torch.rand(3, generator=seeds.seed_all(2)), torch.rand(3, generator=seeds.seed_all(2)))
