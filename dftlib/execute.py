"""Executes a notebook by papermill as `make` does: the output appears when it is whole, and a fault ends in one sentence.

    python -m dftlib.execute notebooks/00_data.ipynb --out build/demo/00_data.ipynb -f notebooks/profiles/demo.yaml

Parameters are papermill's: -f a YAML file, -y YAML, -p a name and a value, -r a name and a text. A notebook that an error
stops is kept as far as it came, as NAME.stopped.ipynb. Exit status: 0 done, 1 a check failed or the code did, 2 bad input.
"""

import builtins
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from dftlib.command import guarded, parser, value
from dftlib.config import DataError
from dftlib.progress import VARIABLE
from dftlib.store import whole

TRANSPORT = Config({"KernelManager": {"transport_encryption": "auto"}})  # others of the machine could listen to the ports


def execute(notebook: Path, out: Path, parameters: dict[str, Any]) -> None:
    """Writes the executed notebook to `out`.

    Raises `DataError` where the notebook did or the disk failed, `PapermillExecutionError` where anything else stopped it.
    """
    if not notebook.is_file():
        raise DataError(f"There is no notebook {notebook}: name one of the folder notebooks.")
    stopped = out.with_name(f"{out.stem}.stopped.ipynb")
    try:
        with whole(out) as temporary, _lines():
            try:
                papermill.execute_notebook(notebook, temporary, parameters, progress_bar={"mininterval": 10}, config=TRANSPORT)
            except PapermillExecutionError:
                temporary.replace(stopped)
                raise
    except PapermillExecutionError as error:
        if error.ename == "DataError":
            raise DataError(error.evalue) from error
        if issubclass(getattr(builtins, error.ename, int), OSError):
            raise DataError(f"{error.evalue}: make room, or set what names that place elsewhere, and call again.") from error
        raise
    stopped.unlink(missing_ok=True)


@contextmanager
def _lines() -> Iterator[None]:
    """Shows what bars in the kernel say (`progress.Lines`), as it comes, on the error output."""
    with tempfile.NamedTemporaryFile("r") as file:
        os.environ[VARIABLE], ended = file.name, threading.Event()

        def show() -> None:
            last = False
            while not last:
                last = ended.wait(1)
                sys.stderr.write(file.read())

        watcher = threading.Thread(target=show)
        watcher.start()
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            ended.set()
            watcher.join()


def _parameters(files: list[Path], texts: list[str], values: list[list[str]], raw: list[list[str]]) -> dict[str, Any]:
    """As papermill lays them over each other: files, YAML, values, texts, each in its order."""
    parameters: dict[str, Any] = {}
    read = []
    for file in files:
        if not file.is_file():
            known = ", ".join(sorted(p.stem for p in file.parent.glob("*.yaml")))
            raise DataError(f"There is no profile {file}: choose one of {known or 'notebooks/profiles'}, or write it.")
        read.append(file.read_text())
    for text in [*read, *texts]:
        if not isinstance(given := value(text), dict):
            raise DataError(f"{text!r} names no parameters: write 'name: value'.")
        parameters |= given
    return parameters | {name: value(text) for name, text in values} | dict(raw)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("dftlib.execute", __doc__)
    options.add_argument("notebook", type=Path)
    options.add_argument("--out", type=Path, required=True, metavar="FILE")
    options.add_argument("-f", type=Path, action="append", default=[], metavar="FILE", help="YAML file of parameters")
    options.add_argument("-y", action="append", default=[], metavar="YAML", help="parameters as YAML")
    options.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    options.add_argument("-r", nargs=2, action="append", default=[], metavar=("NAME", "TEXT"), help="a parameter, never a number")
    given = options.parse_args(argv)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of unknown parameters; in the notebook they are an error

    def work() -> int:
        try:
            execute(given.notebook, given.out, _parameters(given.f, given.y, given.p, given.r))
        except PapermillExecutionError as error:
            if given.debug:
                raise
            failed = error.evalue.startswith("FAIL ")
            print(error.evalue if failed else "\n".join(error.traceback), file=sys.stderr)
            print(f"{given.notebook} stopped there: see {given.out.stem}.stopped.ipynb in {given.out.parent}.", file=sys.stderr)
            return 1
        return 0

    return guarded(work, given.debug)


if __name__ == "__main__":
    sys.exit(main())
