"""A check that can't fail isn't a check: each of these fails when it should."""

from pathlib import Path

import pandas as pd
import pytest

from dftlib.experiments.profile import Profile, load_profile
from dftlib.notebook import checks

TABLE = pd.DataFrame({"data": ["a", "b"], "after": [80.0, 70.0], "gap": [0.5, float("nan")]})


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.delenv("DFT_ACCEPT", raising=False)
    path = tmp_path / "results" / "demo" / "table.csv"
    path.parent.mkdir(parents=True)
    TABLE.to_csv(path, index=False)
    return path


def compare(table: pd.DataFrame, after: float = 1.0) -> None:
    checks.same_as_stored(table, "table", load_profile("demo"), ["data"], {"after": after, "gap": 0.1})


def test_a_claim_that_holds_is_said_and_one_that_does_not_raises(capsys: pytest.CaptureFixture[str]) -> None:
    checks.check("two is two", True)
    assert capsys.readouterr().out == "PASS two is two\n"
    with pytest.raises(AssertionError, match="FAIL two is three"):
        checks.check("two is three", False)


def test_numbers_within_their_tolerance_pass(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(TABLE.assign(after=[80.9, 69.1]))
    assert capsys.readouterr().out.count("PASS") == 3


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (TABLE.assign(after=[81.1, 70.0]), "after differs from the stored table by 1.1, more than 1"),
        (TABLE.assign(after=[80.0, float("nan")]), "after is empty in one of the two"),
        (TABLE.head(1), "has the rows"),
        (pd.concat([TABLE, TABLE.assign(data="c")]), "has the rows"),
    ],
)
def test_a_number_or_a_row_that_left_the_stored_table_fails(stored: Path, table: pd.DataFrame, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        compare(table)


def test_what_cannot_be_compared_is_said(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.same_as_stored(TABLE * 2, "table", load_profile("demo", weight=300), ["data"], {"after": 0})
    assert capsys.readouterr().out == "SKIP table: weight differ from the profile 'demo'\n"
    checks.same_as_stored(TABLE * 2, "table", load_profile("small"), ["data"], {"after": 0})
    assert capsys.readouterr().out == "SKIP table: what is stored is of a sample of the real data sets\n"
    monkeypatch.setenv("DFT_ACCEPT", "1")
    compare(TABLE * 2)
    assert capsys.readouterr().out.startswith("SKIP table: no stored table")
    monkeypatch.delenv("DFT_ACCEPT")
    stored.unlink()
    compare(TABLE * 2)
    assert capsys.readouterr().out.startswith("SKIP table: no stored table")


def test_some_rows_may_have_a_tolerance_of_their_own(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row, most in ((0, 0.5), (1, 3.0)):
        one = TABLE.iloc[[row]].assign(after=TABLE["after"].iloc[row] + most)
        checks.same_as_stored(one, "table", load_profile("demo"), ["data"], {"after": most}, some=True)
        with pytest.raises(AssertionError, match="more than"):
            checks.same_as_stored(one, "table", load_profile("demo"), ["data"], {"after": most / 2}, some=True)
    with pytest.raises(AssertionError, match="has the rows"):
        checks.same_as_stored(TABLE.assign(data="c"), "table", load_profile("demo"), ["data"], {"after": 1}, some=True)


def test_means_are_compared_where_single_rows_move_too_far(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how: tuple[Profile, list[str], dict[str, float]] = (load_profile("demo"), ["data"], {})
    checks.same_as_stored(TABLE.assign(after=[85.0, 65.0]), "table", *how, means={"after": 0.1})
    assert "PASS table: the mean of after within 0.1 of the stored one" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="FAIL table: the mean of after differs from the stored one by 5, more than 4"):
        checks.same_as_stored(TABLE.assign(after=TABLE["after"] + 5), "table", *how, means={"after": 4})
