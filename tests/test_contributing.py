"""CONTRIBUTING.md is true: a data set is added as it says, to a copy of the kit, and a perturbation fitted to it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import faces_on_disk
import pytest

from dftlib.paths import ROOT
from dftlib.perturbation.perturbation import Perturbation

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


@pytest.mark.slow
def test_a_data_set_is_added_as_it_says(tmp_path: Path) -> None:
    for name in ("dftlib", "notebooks/profiles", "results/published"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # which makes it a checkout
    title, code = block("python").split("\n", 1)
    (tmp_path / title.removeprefix("# ")).write_text(code)
    subprocess.run(["git", "apply", "-"], input=block("diff"), text=True, cwd=tmp_path, check=True)
    for person in range(12):
        for number in range(5):
            name = f"{person:02d}-{'fm'[person % 2]}-{number}.jpg"
            faces_on_disk.noise(tmp_path / "faces" / "toy" / "jpg" / name, 64, 64, 10 * person + number)
    (command,) = re.findall(r"^    dft (fit .*)$", TEXT, re.MULTILINE)
    given = [sys.executable, "-m", "dftlib", *shlex.split(command), "-p", "steps", "1", "-p", "head_epochs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DFT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"n\.safetensors: \d+\.\d % of the validation images right, \d+\.\d % without N \(round [01] of 1\)\.\n", done.stdout
    )
    assert Perturbation.load(tmp_path / "n.safetensors").n.shape == (3, 64, 64)


def test_each_part_is_short_and_names_what_is_in_the_code() -> None:
    parts = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", TEXT, re.MULTILINE))
    assert list(parts) == ["A data set", "A backbone", "A classifier", "A notebook"]
    for name in ("FROM_DISK", "Backbone", "KINDS", "BlackBox", "_answer", "as_scores", "load_classifier", "SOURCES"):
        assert f"{name}" in TEXT
        assert any(re.search(rf"\b{name}\b", path.read_text()) for path in (ROOT / "dftlib").rglob("*.py"))
    assert all(len(part.splitlines()) <= 12 for name, part in parts.items() if name != "A data set")
