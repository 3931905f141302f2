"""Every published cell of *Data Fine-tuning* beside ours, read from the result tables of a profile."""

import numpy as np
import pandas as pd

from dftlib.config import ROOT, DataError

TABLES = {2: "table2_gender_intra", 3: "table3_attributes_intra", 5: "table5_gender_inter", 6: "table6_attributes_inter"}
CELL = ["table", "attribute", "data", "model"]
MEANS = ["published_before", "published_after", "before", "after", "rise", "oracle", "trivial", "over_best", "after_gate"]
MEANS += ["balanced_before", "balanced_after", "auc_before", "auc_after", "psnr"]


def _stored(name: str, profile: str) -> pd.DataFrame:
    path = ROOT / "results" / profile / f"{name}.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: run notebooks 02 and 03 with the profile '{profile}' first.")
    return pd.read_csv(path)


def scorecard(profile: str) -> pd.DataFrame:
    """A row per published accuracy (Tables 2, 3, 5, 6) and per class of Table 4's confusion matrices; percent.

    Ours are means over the seeds under the main protocol, intervals from the lowest lower to the highest upper limit of any
    seed. `beats_remedies` compares with the best of majority class, moved threshold, matched colours, both, and mean
    pictures: 'yes' or 'no' where the 95 % interval of the difference excludes zero, else 'open'. `more_than_threshold`:
    the interval of the rise in ROC area lies above zero.
    """
    rows = pd.concat([_stored(name, profile) for name in TABLES.values()])
    cells = rows[rows["protocol"] == rows["protocol"].iloc[0]].groupby(CELL, sort=False)
    card = cells[MEANS].mean().join(cells.agg(seeds=("seed", "size"), rise_min=("rise", "min"), rise_max=("rise", "max")))
    for name in ("rise", "over_best", "auc_rise"):
        card[f"{name}_lo"], card[f"{name}_hi"] = cells[f"{name}_lo"].min(), cells[f"{name}_hi"].max()
    card["best_remedy"] = cells["best_remedy"].first()
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
    ours, paper = wide["right"], wide["right_published"]
    table = pd.DataFrame({"before": ours["before"], "after": ours["after"], "rise": ours["after"] - ours["before"]})
    table["published_before"], table["published_after"] = paper["before"], paper["after"]
    table["published_rise"] = paper["after"] - paper["before"]
    table = table.reset_index()
    return table.assign(table=4, model=table["data"])
