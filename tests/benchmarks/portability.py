"""How far the numbers that the notebooks' checks read move from machine to machine, and with how much room the claims hold.

    python tests/benchmarks/portability.py [--csv FILE] [--only NAME ...] [--parts 01 02 03 07]

The profile demo, computed as other machines would: in another precision, without the newer instructions, on two threads. Every
variant has processes and a cache of its own below build/portability, two variants run at a time, and what lies there isn't
computed again, so that a killed run goes on: delete that folder to begin anew, as after any change to the kit. The CSV has a row
for every column that is read, at whichever of its table's rows it moves most, and for every claim, by the margin it holds with.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dftlib import artefacts, paths
from dftlib.experiments import tables
from dftlib.experiments.facial_attributes import tables as attribute_tables
from dftlib.experiments.facial_attributes.robustness import AttributeLab
from dftlib.experiments.lab import Lab
from dftlib.experiments.profile import Profile, dtype_of, load_profile
from dftlib.paths import ROOT

Tables = Mapping[str, pd.DataFrame]
BUILD = ROOT / "build" / "portability"
FLOAT32 = {"precision": "float32"}  # said, since `dtype_of` sees the processor itself whatever is barred below


def instructions(aten: str, onednn: str, mkl: str) -> dict[str, str]:
    """The environment in which torch, its convolutions and its matrix products use no newer instructions than these."""
    return {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}


# By name: the environment, and what is laid over the profile. The seeds are other draws, not other machines: the drawn faces of
# notebooks 01 to 03 change with the first seed as well as the training, so what they span stands in columns of its own.
VARIANTS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "float32": ({}, FLOAT32),
    "bfloat16": ({}, {"precision": "bfloat16"}),
    "AVX2": (instructions("avx2", "AVX2", "AVX2"), FLOAT32),
    "SSE4.1": (instructions("default", "SSE41", "SSE4_2"), FLOAT32),  # MKL knows no older one
    "two threads": ({"OMP_NUM_THREADS": "2"}, {}),
    "seed 1": ({}, {"seeds": [1]}),
    "seed 2": ({}, {"seeds": [2]}),
}
MACHINES = [name for name in VARIANTS if not name.startswith("seed")]

# By notebook and table: what tells rows apart (the seed doesn't, as every variant has one), and the columns that are read.
CELL, INTRA = ["attribute", "data", "model"], ["before", "after", "trivial", "psnr", "rise_lo"]
INTER = [*INTRA, "rise", "oracle", "after_8bit"]
READ: dict[str, dict[str, tuple[list[str], list[str]]]] = {
    "01": {"classifier_accuracy": ([*CELL, "backbone"], ["accuracy", "accuracy_lo", "trivial", "balanced"])},
    "02": {"table2_gender_intra": (CELL, INTRA), "table3_attributes_intra": (CELL, INTRA)},
    "03": {"table5_gender_inter": (CELL, INTER), "table6_attributes_inter": (CELL, INTER)},
    "07": {
        "attribute_error": (["attribute", "approach"], ["error", "balanced_error"]),
        "attribute_error_tests": (["approach"], ["mean_error", "mean_balanced_error"]),
    },
}
OUTCOMES = {"02": (2, 3), "03": (5, 6)}  # the paper's numbers of these tables
COLUMNS = ["part", "kind", "name", "where", "as_it_is", "lowest", "highest", "spread", "seeds_lowest", "seeds_highest"]
COLUMNS += ["variants", "margin_over_spread"]


def by_default() -> list[str]:
    """All but what 'as it is' computes already, and bfloat16 where it would be emulated, several times slower."""
    native = dtype_of(load_profile("demo"), torch.device("cpu")) == torch.bfloat16
    return [name for name in VARIANTS if name != "bfloat16" and (native or name != "float32")]


def claims(part: str, found: Tables) -> dict[str, float]:
    """By claim, in the notebook's words, the margin: above 0 where it holds."""
    if part == "01":
        rows = found["classifier_accuracy"].query("attribute == 'Gender'")
        rows = rows[rows["backbone"] == load_profile("demo").backbone]
        home, away = rows[rows["model"] == rows["data"]], rows[rows["model"] != rows["data"]]
        return {
            "every Gender classifier beats the majority class at home": (home["accuracy_lo"] - home["trivial"]).min(),
            "Gender is less accurate away than at home": home["accuracy"].mean() - away["accuracy"].mean(),
        }
    if part == "07":
        tests = found["attribute_error_tests"].set_index("approach")
        error, balanced = tests["mean_error"], tests["mean_balanced_error"]
        separate, trivial = error[attribute_tables.SEPARATE], error[attribute_tables.TRIVIAL]
        early = error[f"{attribute_tables.SEPARATE} after two epochs"]
        return {
            "separate networks make at most three quarters of the errors of the majority class": 0.75 * trivial - separate,
            "separate networks make fewer errors than the majority class": trivial - separate,
            "MOON makes fewer errors than the majority class": trivial - error["MOON"],
            "MOON makes at most three quarters of the errors of the majority class": 0.75 * trivial - error["MOON"],
            "the converged networks are ahead of those after two epochs": early - separate,
            "domain balancing lowers MOON's balanced error": balanced["MOON"] - balanced["MOON, domain-balanced"],
        }
    psnr = min((rows["psnr"] - (rows["min_psnr"] - 0.5)).min() for rows in found.values())
    margins = {"no perturbation costs more PSNR than was allowed": psnr}
    if part == "03":
        own = found["table5_gender_inter"].query("attribute == 'Gender'")  # the profile has one protocol
        to_win = own["oracle"] - own["before"]
        far = own["rise"][to_win > 10]
        margins |= {
            # without such a cell the claim fails, by what is lacking to one
            "Gender rises in every cell with ten points or more to win": far.min() if len(far) else to_win.max() - 10,
            "the mean rise of Gender is clear of zero": own["rise_lo"].mean(),
            "rounding to 8 bits costs less than a point on average": 1 - (own["after"] - own["after_8bit"]).mean(),
        }
    return margins


def measured(part: str, run: Profile) -> Tables:
    """The tables of a notebook that its checks read."""
    if part == "01":
        return {"classifier_accuracy": tables.classifier_accuracy(Lab(run))}
    if part == "07":
        attributes = AttributeLab(run)
        errors = attribute_tables.errors(attributes)
        balanced = errors.groupby("approach")["balanced_error"].mean().reset_index(name="mean_balanced_error")
        tests = attribute_tables.error_tests(attributes).merge(balanced)
        return {"attribute_error": errors, "attribute_error_tests": tests}
    lab = Lab(run)
    rows = tables.outcomes(lab.outcomes(lab.cells(*OUTCOMES[part])))
    return {name: rows[rows["table"] == number] for name, number in zip(READ[part], OUTCOMES[part], strict=True)}


def compute(name: str, part: str, out: Path) -> None:
    """Computes a variant of a notebook's tables in this process, which has its environment, and writes them as JSON."""
    run = load_profile("demo", **{"device": "cpu", **VARIANTS[name][1]})
    found = {table: rows.to_dict("records") for table, rows in measured(part, run).items()}
    with artefacts.whole(out) as temporary:
        temporary.write_text(json.dumps(found))


def computed(name: str, parts: Sequence[str]) -> dict[str, Tables]:
    """By notebook, the tables of a variant: what is missing is computed, a process a notebook, and said when it ends."""
    found: dict[str, Tables] = {}
    for part in parts:
        out = BUILD / name / f"{part}.json"
        if not out.is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, "--one", name, "--parts", part, "--out", str(out)]
            own = {"OMP_NUM_THREADS": "1", "DFT_CACHE": str(BUILD / name / "cache"), **VARIANTS[name][0]}
            start = time.perf_counter()
            with out.with_suffix(".log").open("w") as log:
                ended = subprocess.run(command, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT)
            if ended.returncode:
                raise RuntimeError(f"{name}, notebook {part}: exit status {ended.returncode}, see {log.name}")
            print(f"{name}, notebook {part}: {time.perf_counter() - start:.0f} s", flush=True)
        found[part] = {table: pd.DataFrame(rows) for table, rows in json.loads(out.read_text()).items()}
    return found


def moved(values: pd.Series) -> dict[str, float]:
    """A number's range, from its value in each variant: over the machines, and apart from it over the seeds."""
    machines, seeds = (values[values.index.isin(MACHINES) == which] for which in (True, False))
    return {
        "as_it_is": values.get("as it is", math.nan), "lowest": machines.min(), "highest": machines.max(),
        "spread": machines.max() - machines.min(), "seeds_lowest": seeds.min(), "seeds_highest": seeds.max(),
        "variants": machines.count(),
    }  # fmt: skip


def summary(found: Mapping[str, Mapping[str, Tables]]) -> pd.DataFrame:
    """The rows of the CSV, from the tables by variant and notebook."""
    rows: list[dict[str, Any]] = []
    for part in sorted({part for parts in found.values() for part in parts}):
        each = {name: parts[part] for name, parts in found.items()}
        for table, (keys, columns) in READ[part].items():
            for column in columns:
                wide = pd.DataFrame({name: t[table].set_index(keys)[column] for name, t in each.items()})
                wide = wide.replace(math.inf, math.nan)  # the PSNR that N = 0 leaves, which no finite one is near
                own = wide.loc[:, wide.columns.isin(MACHINES)]
                at = int((own.max(axis=1) - own.min(axis=1)).fillna(-1).argmax())
                said = {"name": f"{table}: {column}", "where": ", ".join(wide.index.to_frame().iloc[at])}
                rows.append({"part": part, "kind": "number", **said, **moved(wide.iloc[at])})
        for claim, margins in pd.DataFrame({name: claims(part, t) for name, t in each.items()}).iterrows():
            row = moved(margins)
            over = row["lowest"] / max(row["spread"], 1e-9)
            rows.append({"part": part, "kind": "claim", "name": claim, **row, "margin_over_spread": over})
    return pd.DataFrame(rows, columns=COLUMNS)


def too_close(table: pd.DataFrame) -> pd.DataFrame:
    """The claims whose lowest margin isn't twice what the margin moves by."""
    return table[(table["kind"] == "claim") & ~(table["lowest"] > 2 * table["spread"])]


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--csv", type=Path, default=paths.output_folder() / "results" / "benchmarks" / "portability.csv")
    options.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"some of: {', '.join(VARIANTS)}")
    options.add_argument("--parts", nargs="+", choices=READ, default=list(READ), help="notebooks")
    options.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args(words)
    if given.one:
        return compute(given.one, given.parts[0], given.out)
    names = given.only or by_default()
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(lambda name: computed(name, given.parts), names), strict=True))
    table = summary(found)
    with artefacts.whole(given.csv) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    for row in too_close(table).to_dict("records"):
        print(f"too close: {row['part']}: {row['name']}: lowest margin {row['lowest']:.3g}, moves by {row['spread']:.3g}")


if __name__ == "__main__":
    main()
