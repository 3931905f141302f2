"""The house: imports run one way, no file grows beyond what one reads in a sitting, and the library knows nothing of the kit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dftlib import paths

ORDER = (
    "errors", "paths", "seeds", "images", "progress", "artefacts", "_torchvision", "datasets", "models", "classifiers", "metrics",
    "perturbation", "plots", "experiments", "notebook", "cli",
)  # fmt: skip
FILES = sorted(p for p in paths.PACKAGE.rglob("*.py") if p.parent != paths.PACKAGE or p.stem not in ("__init__", "__main__"))


def imported(file: Path) -> Iterator[str]:
    """The modules of dftlib that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dftlib":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dftlib."):
            yield str(node.module).removeprefix("dftlib.")
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("dftlib.") for alias in node.names if alias.name.startswith("dftlib."))


@pytest.mark.parametrize("file", FILES, ids=[str(p.relative_to(paths.PACKAGE)) for p in FILES])
def test_imports_run_one_way(file: Path) -> None:
    own = ORDER.index(file.relative_to(paths.PACKAGE).with_suffix("").parts[0])
    assert [name for name in imported(file) if ORDER.index(name.split(".")[0]) > own] == []


def test_no_module_imports_in_a_circle() -> None:
    graph = {".".join(p.relative_to(paths.PACKAGE).with_suffix("").parts): p for p in FILES}
    reached: dict[str, set[str]] = {}

    def below(name: str, path: tuple[str, ...]) -> set[str]:
        assert name not in path, f"{' -> '.join((*path, name))}"
        if name not in reached:
            direct = {n for n in imported(graph[name]) if n in graph}
            reached[name] = direct.union(*(below(n, (*path, name)) for n in direct))
        return reached[name]

    for name in graph:
        below(name, ())


@pytest.mark.parametrize("file", FILES, ids=[str(p.relative_to(paths.PACKAGE)) for p in FILES])
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 420  # a few lines over 400 beat a cut in the wrong place
