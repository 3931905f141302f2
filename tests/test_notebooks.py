"""The notebooks as documents: thin, with outputs that nbval can compare, and deaf to parameters that nobody knows."""

import ast
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import yaml

from dftlib.errors import DataError
from dftlib.experiments import profile
from dftlib.paths import PROFILES, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_thin_and_has_parameters(path: Path) -> None:
    cells = code(path)
    assert [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])] == [0]
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in cells))):
        assert not isinstance(node, ast.ClassDef), "a class belongs in dftlib"
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 5, f"{node.name} belongs in dftlib"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_opens_with_what_one_learns_and_ends_with_what_to_try(path: Path) -> None:
    """A sentence and a time; and overrides that the profile knows and that change something."""
    first, *_, last = nbformat.read(path, 4).cells
    title, _, learned, _, time, *_ = first.source.split("\n")
    assert title.startswith(f"# {path.name[:2]} · ")
    assert re.fullmatch(r"\*\*What one learns\.\*\* [^.]+\.", learned)
    assert re.fullmatch(r"\*\*Time\.\*\* .*(minute|second).*\.", time)
    assert last.cell_type == "markdown"
    assert last.source.startswith("## What to try next\n\n- ")
    for name, value in re.findall(r"`(\w+) = ([^`]+)`", last.source):
        given = {"profile": "demo", name: ast.literal_eval(value)}
        changed = profile.from_notebook(given)
        assert given["profile"] != "demo" or profile.overridden(changed) == [name]


def test_the_index_of_figures_names_each_and_what_draws_it() -> None:
    """figures/README.md: every link is of a file, each under the notebook that writes it, and no committed figure is left out."""
    folder = ROOT / "figures"
    named: set[str] = set()
    for section in (folder / "README.md").read_text().split("\n## ")[1:]:
        maker, *links = re.findall(r"\]\(([^)]+)\)", section)
        assert (folder / maker).is_file()
        assert [link for link in links if not (folder / link).is_file()] == []
        if maker.endswith(".ipynb"):
            source = "\n".join(cell.source for cell in code(folder / maker))
            assert [link for link in links if f'"{Path(link).stem}", ' not in source] == []
        named |= set(links)
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "*.png"], cwd=folder, capture_output=True, text=True, check=True).stdout
        assert set(listed.split()) - named == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_later_cells_leave_parameters_alone(path: Path) -> None:
    """Whoever runs the first cells again would else get others than those that stand there."""
    first, *later = (set(profile._set_in(cell.source)) for cell in code(path))
    assert not set().union(*later) & {*first, *(f.name for f in fields(profile.Profile))}


class Session:
    """A kernel's variables, and its history of what was run."""

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {"In": [""], "Out": {}}

    def run(self, source: str) -> None:
        self.variables["In"].append(source)
        exec(source, self.variables)


@pytest.mark.parametrize("asks", ["from_notebook", "request"])
def test_the_setup_cell_may_be_run_again(asks: str) -> None:
    """In JupyterLab, after all the others, which have made variables; also with a parameter changed or added."""
    session = Session()
    module = "profile" if asks == "from_notebook" else "own_classifier"
    first = {"from_notebook": "profile = 'demo'\ndata_root = ''", "request": "images = labels = model = 'given'\nbudget = 900"}[
        asks
    ]
    setup = f"from dftlib.experiments.{module} import {asks}\nnote = 'drawn'\nrun = {asks}(globals())"
    for source in (first, setup, "picture, rows = 'a.png', [1, 2]\nfor steps in range(3): batch = {'size': 3}", "1 +"):
        with suppress(SyntaxError):
            session.run(source)
    begun = session.variables["run"]
    session.run(setup)
    assert session.variables["run"] == begun
    name, value = ("steps", 7) if asks == "from_notebook" else ("budget", 1000)
    session.run(f"{first}\n{name} = {value}")
    session.run(setup)
    assert session.variables["run"] == replace(begun, **{name: value})
    session.run(f"{first}\nwieght = 3")
    with pytest.raises(DataError, match="Unknown parameter 'wieght'"):
        session.run(setup)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stores_outputs_that_can_be_compared(path: Path) -> None:
    """nbval passes a notebook without outputs: it then compares nothing."""
    cells = code(path)
    assert all(cell.execution_count for cell in cells)
    assert not [o for cell in cells for o in cell.outputs if o.output_type in ("error",)]
    compared = [cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    said = "".join(o.text for cell in compared for o in cell.outputs if o.output_type == "stream")
    assert said.count("PASS") >= 5
    assert "SKIP" not in said, "run it again with its results stored, so that they are compared"
    # What is shown, tables and figures, differs from processor to processor; what is printed, checks, must not.
    shown = [cell for cell in compared for output in cell.outputs if "data" in output]
    assert [cell.source for cell in shown] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_holds_no_path_of_a_machine(path: Path) -> None:
    assert not [word for word in ("/home/", "/root/", "/tmp/", str(ROOT)) if word in path.read_text()]


@pytest.mark.slow
def test_an_unknown_papermill_parameter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(papermill.PapermillExecutionError, match="Unknown parameter 'wieght'; did you mean 'weight'"):
        papermill.execute_notebook(NOTEBOOKS[0], tmp_path / "out.ipynb", {"wieght": 3}, progress_bar=False, log_output=False)


def test_every_profile_is_a_papermill_parameter_file() -> None:
    for path in PROFILES.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["profile"] == path.stem


@pytest.mark.slow
def test_a_result_that_left_its_tolerance_fails_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check cell of a notebook, fed with a stored table that says otherwise, stops the run."""
    for name in ("dftlib", "notebooks", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # which makes it a checkout
    table = tmp_path / "results" / "demo" / "data_summary.csv"
    lines = table.read_text().splitlines()
    pictures = lines[0].split(",").index("pictures")
    row = lines[1].split(",")
    row[pictures] = str(int(row[pictures]) + 1)
    table.write_text("\n".join([lines[0], ",".join(row), *lines[2:]]) + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(papermill.PapermillExecutionError, match="FAIL data_summary: pictures differs"):
        papermill.execute_notebook(
            tmp_path / "notebooks" / "00_data.ipynb", tmp_path / "out.ipynb", progress_bar=False, log_output=False
        )
