"""Kills a command again and again at random moments, then lets it end: python tests/killed.py --times 20 -- make reproduce

Two deaths in three take every process of the command at once, as when the power fails; the third is Ctrl-C. Writes a line for
each to the CSV, and what a last, undisturbed call left behind. Exit status: 0 it ended well and no half-written file is left.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

HALF = (".*-????????.*", "*.part")  # what `artefacts.whole` has not yet named, and checkpoints of fits that still run
GRACE = 20  # seconds that Ctrl-C gives


def half_written(folder: Path) -> list[str]:
    """Files below `folder` that a killed process left, outside the virtual environment."""
    found = {p for pattern in HALF for p in folder.rglob(pattern) if p.is_file()}
    return sorted(str(p.relative_to(folder)) for p in found if ".venv" not in p.parts and ".git" not in p.parts)


def kill(process: subprocess.Popen[bytes], how: str) -> None:
    """Ends the process with all its descendants, also those that have a session of their own."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _, family = psutil.wait_procs(family[1:], GRACE)
    for member in family:  # stopped first, so that none sees another die
        _send(member, signal.SIGSTOP)
    for member in family:
        _send(member, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, GRACE)


def _send(member: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        member.send_signal(number)


def deaths(command: list[str], folder: Path, times: int, longest: float, seed: int, log: Path) -> Iterator[dict[str, object]]:
    """Calls the command `times` times and kills each call within `longest` seconds; a row for each, then one for the last call.

    The calls' output is added to `log`. A call that ends before its death is a row too, with its exit status.
    """
    random = np.random.default_rng(seed)
    for number in range(1, times + 2):
        how = ("power", "power", "Ctrl-C")[number % 3] if number <= times else "none"
        wait = float(random.uniform(0, longest)) if number <= times else None
        begun, before = time.monotonic(), log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
            try:
                process.wait(wait)
                how = "none"
            except subprocess.TimeoutExpired:
                kill(process, how)
        said = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()
        yield {
            "call": number,
            "death": how,
            "seconds": round(time.monotonic() - begun, 1),
            "status": process.returncode,
            "half_written": len(half_written(folder)),
            "last_said": said[-1][:80] if said else "",
        }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=20)
    options.add_argument("--longest", type=float, default=60, help="seconds that a call may run before it is killed")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path, default=Path())
    options.add_argument("--log", type=Path, required=True, help="what the calls print")
    options.add_argument("--csv", type=Path, required=True)
    options.add_argument("command", nargs="+")
    given = options.parse_args()
    rows = []
    for row in deaths(given.command, given.folder, given.times, given.longest, given.seed, given.log):
        print(row, flush=True)
        rows.append(row)
        pd.DataFrame(rows).to_csv(given.csv, index=False)
    left = half_written(given.folder)
    print("\n".join(left) or "No half-written file is left.")
    return int(bool(left) or rows[-1]["status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
