"""The scorecard joins what the tables hold: means over seeds, the widest interval, an honest verdict."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from dftlib.errors import DataError
from dftlib.experiments import scorecard
from dftlib.paths import ROOT

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
    rows = pd.read_csv(STORED / "table5_gender_inter.csv")
    rows = rows.query("attribute == 'Gender' and protocol == 'subject' and data == 'celeba' and model == 'muct'")
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
    monkeypatch.setenv("DFT_OUTPUT", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="run notebooks 02 and 03 with the profile 'small' first"):
        scorecard.scorecard("small")


def test_a_run_s_own_tables_come_before_the_committed_ones(
    card: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(STORED, tmp_path / "results" / "small")
    own = tmp_path / "results" / "small" / "table2_gender_intra.csv"
    pd.read_csv(own).assign(after=99.0).to_csv(own, index=False)
    monkeypatch.setenv("DFT_OUTPUT", str(tmp_path))
    assert (scorecard.scorecard("small").query("table == 2")["after"] == 99).all()
    assert not (card.query("table == 2")["after"] == 99).any()


def test_drawn_faces_have_no_published_numbers() -> None:
    with pytest.raises(DataError, match=r"'demo' has drawn faces, .*: take one of real faces, such as 'small'\.$"):
        scorecard.scorecard("demo")


def test_every_number_of_facial_attributes_that_has_a_counterpart_is_there_once() -> None:
    table = scorecard.attributes("small")
    assert not table["quantity"].duplicated().any()
    assert table["source"].value_counts().to_dict() == {"Table 1": 4 * 20, "Table 2": 3 * 8, "section 2.3, 5": 5}
    rows = {row["quantity"]: row for row in table.to_dict("records")}
    assert rows["Euclidean MFFA+, iterative: flipped at PASS 0.95"]["published"] == 73.8
    assert rows["Softmax FFA-: overlap"]["published"] == 1721
    assert rows["MOON: mean error"]["published"] == 9.06
    shares = table.dropna(subset="lo")
    assert (shares["lo"] <= shares["ours"]).all()
    assert (shares["ours"] <= shares["hi"]).all()


def test_a_finding_holds_where_its_first_side_is_greater() -> None:
    table = scorecard.findings("small")
    assert (table["holds"] == (table["first"] > table["second"])).all()
    assert not table.duplicated(["finding", "case"]).any()
    paper = table.dropna(subset="published_first")
    said = paper["published_first"] > paper["published_second"]
    # The paper's own numbers bear out its words.
    assert said.all()


def test_the_bridge_between_matrices_leaves_the_diagonal_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorecard, "ROOT", tmp_path)
    folder = tmp_path / "results" / "small"
    folder.mkdir(parents=True)
    (folder / "correlation_line.csv").write_text("attribute,a,b,c\na,100,,4\nb,2,100,6\nc,0,,100\n")
    assert scorecard._elsewhere("correlation_line", "small") == (2 + 0 + 4 + 6) / 4
