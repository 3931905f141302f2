"""Executes a notebook by papermill: the output appears when it is whole, and a fault ends in one sentence."""

import builtins
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

from dftlib.artefacts import whole
from dftlib.errors import DataError
from dftlib.progress import VARIABLE

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
