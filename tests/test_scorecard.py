"""The scorecard joins what the tables hold: means over seeds, the widest interval, an honest verdict."""

from pathlib import Path

import pandas as pd
import pytest

from dftlib import scorecard
from dftlib.config import ROOT, DataError

STORED = ROOT / "results" / "small"


@pytest.fixture
def card() -> pd.DataFrame:
    return scorecard.scorecard("small")


def test_every_published_cell_is_there_once(card: pd.DataFrame) -> None:
    paper = pd.read_csv(ROOT / "results" / "published" / "data_fine_tuning_accuracy.csv")
    paper = paper.rename(columns={"model_trained_on": "model"}).assign(
        data=paper["data"].str.lower(), model=paper["model_trained_on"].str.lower()
    )
    both = card.merge(paper, on=scorecard.CELL, how="right", indicator=True)
    assert len(both) == len(paper) == (card["table"] != 4).sum() == 21
    assert (both["_merge"] == "both").all()
    assert (both["published_before"] - both["before_y"]).abs().max() < 1e-9
    assert (both["published_after"] - both["after_y"]).abs().max() < 1e-9
    assert (card["table"] == 4).sum() == 6


def test_gender_is_the_mean_of_its_seeds(card: pd.DataFrame) -> None:
    rows = pd.read_csv(STORED / "table5_gender_inter.csv").query("protocol == 'subject' and data == 'celeba' and model == 'muct'")
    found = card.query("table == 5 and data == 'celeba' and model == 'muct'").iloc[0]
    assert found["seeds"] == len(rows) == 3
    assert found["rise"] == pytest.approx(rows["rise"].mean())
    assert (found["rise_lo"], found["rise_hi"]) == (rows["rise_lo"].min(), rows["rise_hi"].max())
    assert found["rise_min"] <= found["rise"] <= found["rise_max"]


def test_a_verdict_needs_an_interval(card: pd.DataFrame) -> None:
    cells = card[card["table"] != 4]
    for _, row in cells.iterrows():
        wanted = "yes" if row["over_best_lo"] > 0 else "no" if row["over_best_hi"] < 0 else "open"
        assert row["beats_remedies"] == wanted
        assert row["sign_agrees"] == (row["rise"] * row["published_rise"] > 0)


def test_table_4_counts_what_is_recognised(card: pd.DataFrame) -> None:
    stored = pd.read_csv(STORED / "table4_confusion.csv").set_index(["attribute", "stage", "truth"])
    row = card.query("table == 4 and attribute == 'Smiling: absent'").iloc[0]
    assert row["after"] == stored.loc[("Smiling", "after", "absent"), "predicted_absent"]
    assert row["published_before"] == 84.14


def test_a_missing_table_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorecard, "ROOT", tmp_path)
    with pytest.raises(DataError, match="run notebooks 02 and 03 with the profile 'small' first"):
        scorecard.scorecard("small")
