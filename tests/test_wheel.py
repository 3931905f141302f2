"""The built wheel, installed where no checkout is: it has all it needs, and writes nothing beside itself."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import faces_on_disk
import pytest

from dftlib.experiments import lab
from dftlib.paths import ROOT
from dftlib.perturbation.perturbation import Perturbation

Call = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, as setuptools leaves its own files beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("dftlib", "notebooks", "results/published"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        out,
        source,
    ]
    subprocess.run(command, check=True)
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the wheel, and all other packages of this one by a path file."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(pip, check=True)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))  # read without the .pth files there: no checkout
    return folder / "bin"


@pytest.fixture
def call(bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls a program of that environment in an empty folder."""
    for name in ("DFT_CACHE", "DFT_OUTPUT", "DFT_DATA", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    (work := tmp_path / "elsewhere").mkdir()

    def run(program: str, *words: str) -> str:
        done = subprocess.run([bin_folder / program, *words], capture_output=True, text=True, cwd=work, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_has_every_package_and_what_a_checkout_has_elsewhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "dftlib").rglob("*.py")}
    data = {f"dftlib/profiles/{p.name}" for p in (ROOT / "notebooks" / "profiles").glob("*.yaml")}
    data |= {f"dftlib/published/{p.name}" for p in (ROOT / "results" / "published").glob("*.csv")}
    data |= {"dftlib/py.typed", "dftlib/notebooks/10_your_own_classifier.ipynb"}
    assert {name for name in names if name.startswith("dftlib/")} == code | data
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_library_is_imported_from_it(call: Call) -> None:
    code = """
import dftlib
from dftlib import DataError, Perturbation, Settings, Split, TorchClassifier, compare, fit, fit_black_box, load_classifier
from dftlib.experiments import lab
from dftlib.experiments.profile import load_profile
from dftlib.paths import NOTEBOOKS
notebooks = [path.name for path in NOTEBOOKS.iterdir()]
print("site-packages" in dftlib.__file__, dftlib.__version__, load_profile("paper").size, len(lab.published()), *notebooks)
"""
    assert call("python", "-c", code) == f"True {version('dftlib')} 224 {len(lab.published())} 10_your_own_classifier.ipynb\n"


def test_the_command_works_and_keeps_to_the_users_folders(call: Call, bin_folder: Path, tmp_path: Path) -> None:
    installed = set(bin_folder.parent.rglob("*"))
    assert call("dft", "--help").startswith("usage: dft COMMAND")
    small = ["-p", "n_train", "40", "-p", "n_val", "31", "-p", "n_fit", "41", "-p", "steps", "1", "-p", "head_epochs", "2"]
    cell = ["--data", "webcam", "--model", "studio", "--attribute", "Gender", "--out", "n.safetensors"]
    assert call("dft", "fit", *small, *cell).startswith("n.safetensors: ")
    elsewhere = tmp_path / "elsewhere"
    assert sorted(p.name for p in elsewhere.iterdir()) == ["n.md", "n.png", "n.safetensors"]
    assert {p.name for p in (tmp_path / "cache" / "dftlib").iterdir()} > {"classifiers", "perturbations", "synthetic"}
    faces_on_disk.noise(elsewhere / "photos" / "a.png", 64, 64, 0)
    call("dft", "perturb", "--perturbation", "n.safetensors", "--in", "photos", "--out", "new")
    assert (elsewhere / "new" / "a.png.png").is_file()
    assert Perturbation.load(elsewhere / "n.safetensors")
    assert set(bin_folder.parent.rglob("*")) == installed
