"""The published numbers of both papers beside ours, read from the result tables of a profile."""

from typing import Any

import numpy as np
import pandas as pd

from dftlib.errors import DataError
from dftlib.experiments.lab import BESIDE_GENDER
from dftlib.paths import ROOT, output_folder

TABLES = {2: "table2_gender_intra", 3: "table3_attributes_intra", 5: "table5_gender_inter", 6: "table6_attributes_inter"}
ROBUST = "07 to 09"  # the notebooks of Facial Attributes
CELL = ["table", "attribute", "data", "model"]
MEANS = ["published_before", "published_after", "unaligned", "before", "after", "rise", "oracle", "trivial", "over_best"]
MEANS += ["after_gate", "balanced_before", "balanced_after", "auc_before", "auc_after", "psnr"]


def _stored(name: str, profile: str, notebooks: str = "02 and 03") -> pd.DataFrame:
    path = output_folder() / "results" / profile / f"{name}.csv"
    if not path.is_file():
        path = ROOT / "results" / profile / f"{name}.csv"  # as committed
    if not path.is_file():
        raise DataError(f"{path} is missing: run notebooks {notebooks} with the profile '{profile}' first.")
    return pd.read_csv(path)


def most_named(remedies: pd.Series) -> str:
    """The remedy that is the best of most seeds; 'varies' where it is another one each time."""
    return str(remedies.mode()[0]) if remedies.duplicated().any() or len(remedies) == 1 else "varies"


def scorecard(profile: str) -> pd.DataFrame:
    """A row per published accuracy (Tables 2, 3, 5, 6) and per class of Table 4's confusion matrices; percent.

    Ours are means over the seeds under the main protocol, intervals from the lowest lower to the highest upper limit of any
    seed. `beats_remedies` compares with the best of majority class, moved threshold, matched colours, both, and mean
    pictures: 'yes' or 'no' where the 95 % interval of the difference excludes zero, else 'open'. `more_than_threshold`:
    the interval of the rise in ROC area lies above zero.
    """
    rows = pd.concat([_stored(name, profile) for name in TABLES.values()])
    if rows["published_before"].isna().all():
        raise DataError(f"The profile '{profile}' has drawn faces, which no paper has: take one of real faces, such as 'small'.")
    rows = rows[rows["attribute"] != BESIDE_GENDER]  # which is not in the paper
    rows["psnr"] = rows["psnr"].where(np.isfinite(rows["psnr"]))  # where N = 0 was kept, it is infinite
    cells = rows[rows["protocol"] == rows["protocol"].iloc[0]].groupby(CELL, sort=False)
    card = cells[MEANS].mean().join(cells.agg(seeds=("seed", "size"), rise_min=("rise", "min"), rise_max=("rise", "max")))
    for name in ("rise", "over_best", "auc_rise"):
        card[f"{name}_lo"], card[f"{name}_hi"] = cells[f"{name}_lo"].min(), cells[f"{name}_hi"].max()
    card["best_remedy"] = cells["best_remedy"].agg(most_named)
    card["recommended"] = cells["recommended"].mean()
    card["published_rise"] = card["published_after"] - card["published_before"]
    card["gap_closed"] = (card["after"] - card["before"]) / (card["oracle"] - card["before"]).where(lambda gap: gap > 0)
    card["beats_remedies"] = np.select([card["over_best_lo"] > 0, card["over_best_hi"] < 0], ["yes", "no"], "open")
    card["more_than_threshold"] = card["auc_rise_lo"] > 0
    card = pd.concat([card.reset_index(), _confusion(profile)], ignore_index=True)
    card["sign_agrees"] = np.sign(card["rise"]) == np.sign(card["published_rise"])
    return card.sort_values("table", kind="stable", ignore_index=True)[[*CELL, *(c for c in card if c not in CELL)]]


def _confusion(profile: str) -> pd.DataFrame:
    """Table 4: of the pictures that truly have, and that lack, an attribute, the share said to."""
    stored = _stored("table4_confusion", profile)
    stored["attribute"] += ": " + stored["truth"]
    present = stored["truth"] == "present"
    for ending in ("", "_published"):
        stored[f"right{ending}"] = stored[f"predicted_present{ending}"].where(present, stored[f"predicted_absent{ending}"])
    wide = stored.pivot_table(["right", "right_published"], ["attribute", "data"], "stage", sort=False)
    ours, paper = (wide[name].assign(rise=wide[name]["after"] - wide[name]["before"]) for name in ("right", "right_published"))
    table = ours[["before", "after", "rise"]].join(paper.add_prefix("published_")).reset_index()
    return table.assign(table=4, model=table["data"])


def attributes(profile: str) -> pd.DataFrame:
    """A row per number of *Facial Attributes* that has one of ours: mean errors, Table 1 (percent) and Table 2 (images of 1,000
    pictures, as the paper counts them).

    `lo` and `hi` are the ends of ours' 95 % interval, from a bootstrap over people; counts have none.
    """
    errors = _stored("attribute_error_tests", profile, ROBUST).dropna(subset="published")
    parts = [pd.DataFrame({
        "source": "section 2.3, 5", "quantity": errors["approach"] + ": mean error", "published": errors["published"],
        "ours": errors["mean_error"], "lo": errors["mean_error_lo"], "hi": errors["mean_error_hi"],
    })]  # fmt: skip
    flips = _stored("flippability", profile, ROBUST)
    for tau in (0, 90, 95, 99):
        name = f"pass_{tau}"
        what = flips["loss"] + " " + flips["adversarial_type"] + ", " + flips["mode"] + f": flipped at PASS {tau / 100:.2f}"
        parts.append(pd.DataFrame({
            "source": "Table 1", "quantity": what, "published": flips[f"published_{name}"],
            "ours": flips[name], "lo": flips[f"{name}_lo"], "hi": flips[f"{name}_hi"],
        }))  # fmt: skip
    progress = _stored("progress", profile, ROBUST)
    for column in ("two_epochs", "converged", "overlap"):
        what = progress["loss"] + " " + progress["adversarial_type"] + f": {column.replace('_', ' ')}"
        counts = progress[column] * 1000 / progress["pictures"]
        parts.append(pd.DataFrame({
            "source": "Table 2", "quantity": what, "published": progress[f"published_{column}"], "ours": counts,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def findings(profile: str) -> pd.DataFrame:
    """What *Facial Attributes* concludes, as inequalities of two numbers: the paper's, ours, and whether ours say so too.

    Percent at PASS 0.95, or what `case` says. `first` and `second` are the two sides; the finding is that the first
    is greater. The paper prints no numbers for Figures 3 to 5.
    """
    flips = _stored("flippability", profile, ROBUST).set_index(["loss", "adversarial_type", "mode"])
    rows: list[tuple[Any, ...]] = []

    def flipped(finding: str, case: str, first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
        rows.append((finding, case, *(flips.loc[key, c] for c in ("pass_95", "published_pass_95") for key in (first, second))))

    modes = ("line-search", "iterative")
    for mode in modes:
        for loss in ("Euclidean", "Softmax"):
            flipped("FFA flips more than FGS", f"{loss}, {mode}", (loss, "FFA+", mode), (loss, "FGS+", mode))
        for kind in ("FGS+", "FFA+"):
            case = f"{kind}, {mode}"
            flipped("softmax is more vulnerable than Euclidean", case, ("Softmax", kind, mode), ("Euclidean", kind, mode))
        flipped("MOON flips more than separate networks", mode, ("Euclidean", "MFFA+", mode), ("Euclidean", "FFA+", mode))
    for loss, kind in (("Euclidean", "FGS"), ("Euclidean", "FFA"), ("Euclidean", "MFFA"), ("Softmax", "FGS"), ("Softmax", "FFA")):
        line, iterative = ((loss, f"{kind}+", mode) for mode in modes)
        flipped("iterating flips more than a line-search", f"{loss} {kind}+", iterative, line)
        for mode in modes:
            case = f"{loss} {kind}, {mode}"
            flipped("what is wrong is easier to set right", case, (loss, f"{kind}-", mode), (loss, f"{kind}+", mode))
    for row in _stored("progress", profile, ROBUST).to_dict("records"):
        # 'Does not decrease', up to a tenth: even the paper's own counts of wrong ones fall by 6 to 10 %.
        case = f"{row['loss']} {row['adversarial_type']}, images"
        sides = (each for side in ("", "published_") for each in (row[f"{side}converged"], 0.9 * row[f"{side}two_epochs"]))
        rows.append(("longer training leaves nine tenths or more", case, *sides))
    for finding, first, second in (
        ("MOON's attributes move together more", "correlation_line", "portability_converged"),
        ("iterating moves MOON's others more", "correlation_iterative", "correlation_line"),
        ("two epochs' images port better", "portability_two_epochs", "portability_converged"),
    ):
        ours = (_elsewhere(name, profile) for name in (first, second))
        rows.append((finding, "mean share of other answers changed", *ours, np.nan, np.nan))
    found = pd.DataFrame(rows, columns=["finding", "case", "first", "second", "published_first", "published_second"])
    return found.assign(holds=found["first"] > found["second"])


def _elsewhere(name: str, profile: str) -> float:
    """Mean of a matrix of Figures 4 and 5 beside its diagonal."""
    matrix = _stored(name, profile, ROBUST).set_index("attribute").to_numpy(float)
    return float(np.nanmean(np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)))
