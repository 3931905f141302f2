"""Executes a notebook by papermill: the output appears when it is whole, and a fault ends in one sentence.

    dft run notebooks/00_data.ipynb --out build/demo/00_data.ipynb -f notebooks/profiles/demo.yaml

The notebook is run by the Python that runs this. Parameters are papermill's: -f a YAML file, -y YAML, -p a name and a value, -r a
name and a text. A notebook that an error stops is kept as far as it came, as NAME.stopped.ipynb. Exit status: 0 done, 1 a check
failed or the code did, 2 bad input.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import yaml
from papermill.exceptions import PapermillExecutionError

from dftlib.cli.common import guarded, parser, told, value
from dftlib.errors import DataError
from dftlib.notebook.execute import execute
from dftlib.progress import PREFIX


class Named(io.TextIOBase):
    """Passes on whole lines, each with a name before it; what a bar draws over itself, and what is flushed, is a line too."""

    def __init__(self, name: str, out: TextIO) -> None:
        self.name, self.out, self.rest = name, out, ""

    def write(self, text: str) -> int:
        *whole, self.rest = (self.rest + text.replace("\r", "\n")).split("\n")
        self._pass(whole)
        return len(text)

    def flush(self) -> None:
        self._pass([self.rest])
        self.rest = ""

    def _pass(self, lines: list[str]) -> None:
        self.out.write("".join(f"{self.name}: {line}\n" for line in lines if line.strip()))  # at once: others write there too
        self.out.flush()


@contextmanager
def lines() -> Iterator[None]:
    """Both outputs in lines that begin with what the variable `PREFIX` says, where it is set."""
    if not (name := os.environ.get(PREFIX)):
        yield
        return
    with Named(name, sys.stdout) as out, Named(name, sys.stderr) as err, redirect_stdout(out), redirect_stderr(err):
        yield


def _said(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{file} isn't UTF-8: save it as text in UTF-8.") from None
    except yaml.YAMLError:
        raise DataError(f"{file} isn't YAML: write a line 'name: value' for each parameter.") from None


def _parameters(files: list[Path], texts: list[str], values: list[list[str]], raw: list[list[str]]) -> dict[str, Any]:
    """As papermill lays them over each other: files, YAML, values, texts, each in its order."""
    parameters: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            known = ", ".join(sorted(p.stem for p in file.parent.glob("*.yaml")))
            raise DataError(f"There is no profile {file}: choose one of {known or 'notebooks/profiles'}, or write it.")
    for where, given in [*((file, _said(file)) for file in files), *((repr(text), value(text)) for text in texts)]:
        if not isinstance(given, dict):
            raise DataError(f"{where} names no parameters: write 'name: value'.")
        parameters |= given
    return parameters | {name: value(text) for name, text in values} | dict(raw)


def executed(notebook: Path, out: Path, parameters: dict[str, Any], debug: bool) -> int:
    """The exit status of executing a notebook with these parameters; says what stopped it, or raises it with `debug`."""
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of unknown parameters; in the notebook they are an error
    try:
        execute(notebook, out, parameters)
    except PapermillExecutionError as error:
        if debug:
            raise
        what = error.evalue if error.evalue.startswith("FAIL ") else "\n".join(error.traceback)
        return told([what, f"{notebook} stopped there: see {out.stem}.stopped.ipynb in {out.parent}."])
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("run", __doc__)
    options.add_argument("notebook", type=Path)
    options.add_argument("--out", type=Path, required=True, metavar="FILE")
    options.add_argument("-f", type=Path, action="append", default=[], metavar="FILE", help="YAML file of parameters")
    options.add_argument("-y", action="append", default=[], metavar="YAML", help="parameters as YAML")
    options.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    options.add_argument("-r", nargs=2, action="append", default=[], metavar=("NAME", "TEXT"), help="a parameter, never a number")
    given = options.parse_args(argv)

    def work() -> int:
        return executed(given.notebook, given.out, _parameters(given.f, given.y, given.p, given.r), given.debug)

    with lines():
        return guarded(work, given.debug)
