"""A fit that is killed at random moments ends in the same bytes as one that isn't, and leaves nothing half-written."""

import shlex
import sys
from pathlib import Path

import pytest
from killed import deaths, half_written

FIT = "-m dftlib fit --data webcam --model webcam --attribute Gender --out n.safetensors -p n_train 100 -p n_fit 60"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_killed_command_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {}
    for name, times in (("undisturbed", 0), ("killed", 3)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv("DFT_CACHE", str(folder / "cache"))
        command = [sys.executable, *shlex.split(FIT)]
        *killed, last = deaths(command, folder, times, longest=8.0, seed=5, log=tmp_path / f"{name}.log")
        assert last["status"] == 0, (tmp_path / f"{name}.log").read_text()
        assert half_written(folder) == []
        ends[name] = contents(folder)
    assert {row["death"] for row in killed} >= {"power"}, "no call was killed: it tells nothing"
    assert {"n.safetensors", "n.png"} < set(ends["killed"])
    assert ends["killed"] == ends["undisturbed"]


def test_what_is_half_written_is_found(tmp_path: Path) -> None:
    for name in (".table-abcdefgh.csv", "cache/x.part", "whole.csv", ".venv/lib/y.part", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert half_written(tmp_path) == [".table-abcdefgh.csv", "cache/x.part"]
