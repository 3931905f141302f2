"""What the benchmarks share: the stopwatch, the rows that it writes, and the report that gathers them."""

import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import report
import timing
from timing import Measured

from dftlib.errors import DataError

CPU = torch.device("cpu")
MADE = [
    Measured("fit step", "floor", 100, "ms", 1, "floor"),
    Measured("fit step", "floor, contiguous", 130, "ms", 1.3, "floor"),
    Measured("fit step", "fit step", 104, "ms", 1.04, "floor", 1.05),
    Measured("fit step", "accuracy that bfloat16 changes", 0.6, "points", target=0.5),
    Measured("flip", "floor", 2, "ms", 1, "floor"),
    Measured("flip", "ours", 4, "ms", 2, "floor"),
    Measured("flip", "toolbox", 40, "ms", 20, "floor"),
    Measured("flip", "ours", 4, "ms", 0.1, "toolbox", 0.2),
    Measured("flip", "ours", 4, "ms", 0.01, "slow toolbox, not there yet"),
    Measured("flip", "toolbox: as ours", 99, "%"),
    Measured("PASS", "ours", 1, "ms", 1, "ours"),
    Measured("PASS", "OpenCV", 3, "ms", 3, "ours"),
    *(
        Measured(f"growth by {what}", row, value * at, unit, at / first, f"{row} at {first}", target, at)
        for what, first, bound in (("number", 1000, 1.1), ("size", 64, math.nan))
        for at in (first, 2 * first)
        for row, value, unit, target in (
            ("step", 1, "ms", math.nan),
            ("fit", 2, "s", math.nan),
            ("memory", 3, "MB", bound),
            ("pictures", 4, "MB", math.nan),
        )
    ),
]


def write(path: Path, rows: list[Measured], machine: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame([asdict(row) for row in rows]).assign(machine=machine, torch="2.13", threads=2, cores=2).to_csv(
        path, index=False
    )
    return path


def test_best_leaves_out_the_round_that_warms_up() -> None:
    calls: dict[str, int] = {"slow": 0, "fast": 0}

    def work(name: str, wait: float) -> None:
        calls[name] += 1
        time.sleep(wait if calls[name] > 1 else 0)

    found = timing.best({"slow": lambda: work("slow", 0.02), "fast": lambda: work("fast", 0.005)}, CPU, repeats=2)
    assert calls == {"slow": 3, "fast": 3}
    assert list(found) == ["slow", "fast"]
    assert found["slow"] >= 0.02
    assert 0.005 <= found["fast"] < found["slow"]


def test_run_writes_rows_peak_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "device", lambda: CPU)
    monkeypatch.setattr(sys, "argv", ["script.py", "--csv", str(tmp_path / "new" / "script.csv")])
    timing.run(lambda device: [Measured("sum", "ours", 2.0, "ms", 0.5, "theirs", 0.9)], "About.")
    (ours, peak) = pd.read_csv(tmp_path / "new" / "script.csv").to_dict("records")
    assert (ours["benchmark"], ours["row"], ours["value"], ours["ratio"], ours["target"]) == ("sum", "ours", 2.0, 0.5, 0.9)
    assert (peak["benchmark"], peak["row"], peak["unit"]) == ("sum", "peak memory", "MB")
    assert 50 < peak["value"] < 1e5
    assert math.isnan(peak["ratio"])
    assert ours["machine"] == peak["machine"] == timing.machine(CPU)
    assert (ours["torch"], ours["threads"]) == (torch.__version__, torch.get_num_threads())
    assert "theirs" in capsys.readouterr().out


def test_report_writes_a_table_and_figures_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DFT_OUTPUT", str(tmp_path / "output"))
    write(tmp_path / "bench" / "a.csv", MADE[:4], "Some CPU (R) @ 2 GHz, 2 threads")
    write(tmp_path / "bench" / "b.csv", MADE[4:], "Some CPU (R) @ 2 GHz, 2 threads")
    write(tmp_path / "bench" / "c.csv", MADE[:3], "A GPU")
    report.main(tmp_path / "bench")
    name = "some-cpu-r-2-ghz-2-threads"
    found = sorted(str(p.relative_to(tmp_path / "output")) for p in (tmp_path / "output").rglob("*.*"))
    assert found == [
        "figures/benchmarks/a-gpu.png", f"figures/benchmarks/{name}.png", f"figures/benchmarks/{name}_growth.png",
        "results/benchmarks/a-gpu.csv", f"results/benchmarks/{name}.csv",
    ]  # fmt: skip
    table = pd.read_csv(tmp_path / "output" / "results" / "benchmarks" / f"{name}.csv")
    assert list(table["row"]) == [row.row for row in MADE]
    assert set(table["script"]) == {"a", "b"}
    said = capsys.readouterr().out
    assert "accuracy that bfloat16 changes" in said
    assert "PASS" not in said


def test_report_tells_ours_from_peers(tmp_path: Path) -> None:
    table = report.gathered([write(tmp_path / "a.csv", MADE, "A")])
    assert list(report.floors(table)["row"]) == ["floor, contiguous", "fit step", "ours"]
    peers = report.peers(table)
    assert list(peers["peer"]) == ["toolbox", "slow toolbox, not there yet", "OpenCV"]
    assert list(peers["slower"]) == pytest.approx([10, 100, 3])
    assert list(peers["target"]) == pytest.approx([5, math.nan, math.nan], nan_ok=True)
    assert list(report.missed(table)["row"]) == ["accuracy that bfloat16 changes", "memory"]
    near, far = report.compared(table, "a note").axes
    assert [t.get_text() for t in near.get_yticklabels()] == ["fit step: floor, contiguous", "fit step", "flip: ours"]
    assert [t.get_text() for t in far.get_yticklabels()] == [f"flip: {p}" for p in peers["peer"][:2]] + ["PASS: OpenCV"]
    assert [t.get_text() for t in far.texts] == ["10 × (at least 5)", "≥ 100 ×", "3 ×"]
    assert (near.get_xscale(), far.get_xscale()) == ("log", "log")
    assert len(report.growth(table).axes) == 6


def test_report_without_tables_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the benchmarks first"):
        report.main(tmp_path)
