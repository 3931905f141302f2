"""What every benchmark here shares: a stopwatch that waits for the device, rounds, and rows that end in one CSV.

A benchmark is a script with `measure(device) -> list[Measured]` that ends in `run(measure, __doc__)`. It prints its rows, and
writes them where `--csv` says; `make bench` gathers them (report.py). A row 'floor…' is the least that the work can cost, one
'ours…' is the kit's, where others stand beside it.
"""

import argparse
import math
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from dftlib.artefacts import whole

REPEATS = 5


@dataclass(frozen=True)
class Measured:
    """One row: `value` in `unit`, and `ratio`, its time or memory over that of the row `of` (below 1 is better)."""

    benchmark: str  # what was done: 'fit step'
    row: str  # by whom, or how: 'bfloat16'
    value: float
    unit: str  # 'ms', 'pictures/s', 'MB', '%', …
    ratio: float = math.nan
    of: str = ""  # the row that `ratio` compares with, of the same benchmark, in the same run
    target: float = math.nan  # that `ratio` (without one, `value`) must not exceed, where one is set
    at: float = math.nan  # of a row of a curve: the number of pictures, or of pixels


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def best(rows: Mapping[str, Callable[[], object]], device: torch.device, repeats: int = REPEATS) -> dict[str, float]:
    """Seconds of each row, the best of `repeats` rounds after one that warms up.

    Every row runs once a round: other work on the machine slows all rows alike.
    """
    found = dict.fromkeys(rows, math.inf)
    for round_ in tqdm(range(repeats + 1), desc="rounds", disable=None):
        for name, work in rows.items():
            took = seconds(work, device)
            found[name] = min(found[name], took) if round_ else math.inf
    return found


def peak_memory(device: torch.device) -> float:
    """MB that this process has held at most so far: on the GPU, or of the computer's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if (status := Path("/proc/self/status")).is_file():
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if peak:
            return int(peak.split()[1]) * 1024 / 1e6
    # Last, since on Linux it begins with the peak of whoever started this process.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def machine(device: torch.device) -> str:
    """The GPU's name, or the processor's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"


def table(rows: Sequence[Measured], device: torch.device) -> pd.DataFrame:
    """The rows, and on which machine they were measured."""
    made = pd.DataFrame([asdict(row) for row in rows])
    return made.assign(machine=machine(device), torch=torch.__version__, threads=torch.get_num_threads(), cores=os.cpu_count())


def run(measure: Callable[[torch.device], list[Measured]], about: str) -> None:
    """Measures; to the rows come one of the peak memory, and on which machine it was."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--csv", type=Path, help="file to write the rows to")
    given = options.parse_args()
    at = device()
    rows = measure(at)
    rows.append(Measured(rows[-1].benchmark, "peak memory", peak_memory(at), "MB"))
    print(machine(at))
    shown = pd.DataFrame([asdict(row) for row in rows]).dropna(axis="columns", how="all")
    print(shown.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))
    if given.csv:
        with whole(given.csv) as temporary:
            table(rows, at).to_csv(temporary, index=False, float_format="%.6g")
