"""The page of a practitioner: the verdict first, no code, no instructions, and tables that fit."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dftlib.notebook import pages
from dftlib.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "10_your_own_classifier.ipynb"
WIDEST = 7  # columns, the row's name among them: 6 numbers with intervals fill an A4 page


def body(page: Path) -> str:
    """What a reader sees of a page."""
    text = re.sub(r"<(style|script|head)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return text[text.index("<body") :]


def result(cell: nbformat.NotebookNode) -> bool:
    return pages.RESULT in cell.metadata.get("tags", [])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    pages.write_page(NOTEBOOK, page := tmp_path_factory.mktemp("report") / "report.html", results=True)
    return body(page)


def test_the_verdict_precedes_everything_else(report: str) -> None:
    text = re.sub(r"<[^>]*>", " ", report).split()
    assert text[0] in ("Recommended:", "Not")
    first = [report.index(mark) for mark in ("<h1", "right before", "data:image/png", "Fitted on:", "<table")]
    assert first == sorted(first)
    assert report.count("<h1") == 1


def test_no_code_and_no_instructions(report: str) -> None:
    assert "highlight" not in report
    assert "import " not in report
    assert "jp-InputArea-editor" not in report
    for word in ("dft tune", "Set them in the next cell", "PASS the perturbation"):
        assert word in NOTEBOOK.read_text(), "or this proves nothing"
        assert word not in report


def test_no_table_is_wider_than_a_page(report: str) -> None:
    rows = re.findall(r"<tr\b.*?</tr>", report, flags=re.DOTALL)
    assert len(rows) > 20
    assert max(len(re.findall(r"<t[hd]\b", row)) for row in rows) <= WIDEST


def test_what_is_shown_of_ones_own_pictures_tells_of_no_demonstration() -> None:
    cells = nbformat.read(NOTEBOOK, 4).cells
    for cell in filter(result, cells):
        assert not re.search("demonstration|synthetic|drawn faces", cell.source, re.IGNORECASE), cell.source
    assert any("demonstration" in cell.source for cell in cells), "or this proves nothing"


def test_code_of_the_notebook_is_hidden_but_for_its_parameters() -> None:
    first, *others = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert "jupyter" not in first.metadata
    assert all(cell.metadata.jupyter.source_hidden for cell in others)


def test_hidden_code_is_folded_and_other_code_is_shown(tmp_path: Path) -> None:
    printed = new_output("stream", text="said")
    cells = [new_markdown_cell("# Guide"), new_code_cell("secret", outputs=[printed]), new_code_cell("public", outputs=[printed])]
    cells[1].metadata = {"tags": ["result"], "jupyter": {"source_hidden": True}}
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    pages.write_page(tmp_path / "n.ipynb", tmp_path / "all.html")
    pages.write_page(tmp_path / "n.ipynb", tmp_path / "result.html", results=True)
    whole, some = body(tmp_path / "all.html"), body(tmp_path / "result.html")
    folded = re.findall(r"<details>.*?</details>", whole, flags=re.DOTALL)
    assert len(folded) == 1
    assert "secret" in folded[0]
    assert "public" in whole.replace(folded[0], "")
    assert "jp-InputArea-editor" in whole
    assert "said" in some
    assert not [word for word in ("secret", "public", "Guide", "details") if word in some]
