"""Executes a notebook by papermill: the output appears when it is whole, and a fault ends in one sentence."""

import builtins
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets import default
from traitlets.config import Config

from dftlib import paths
from dftlib.artefacts import whole
from dftlib.errors import DataError
from dftlib.progress import VARIABLE

TRANSPORT = Config({"KernelManager": {"transport_encryption": "auto"}})  # others of the machine could listen to the ports


class OwnKernel(AsyncKernelManager):
    """Starts this very Python, whatever else JUPYTER_PATH or the user's home has under the name python3."""

    @default("kernel_spec_manager")
    def _own(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def execute(notebook: Path, out: Path, parameters: dict[str, Any]) -> None:
    """Writes the executed notebook to `out`.

    Raises `DataError` where the notebook did or the disk failed, `PapermillExecutionError` where anything else stopped it.
    """
    if not notebook.is_file():
        raise DataError(f"There is no notebook {notebook}: name one of the folder notebooks.")
    try:
        json.loads(notebook.read_bytes())
    except ValueError:
        raise DataError(f"{notebook} is no notebook: name one of the folder notebooks.") from None
    stopped = out.with_name(f"{out.stem}.stopped.ipynb")
    if named := os.environ.get("IPYTHONDIR"):
        with suppress(OSError):  # IPython warns at length where even the folder above isn't there yet
            Path(named).mkdir(parents=True, exist_ok=True)
    with whole(out) as temporary, _lines():
        try:
            papermill.execute_notebook(
                notebook, temporary, parameters, kernel_name=NATIVE_KERNEL_NAME, kernel_manager_class=OwnKernel,
                progress_bar={"mininterval": 10}, config=TRANSPORT,
            )  # fmt: skip
        except PapermillExecutionError as error:
            temporary.replace(stopped)
            if error.traceback == [error.evalue]:  # as a `DataError` shows itself, whatever the name of its kind
                raise DataError(error.evalue) from error
            if issubclass(getattr(builtins, error.ename, int), OSError):
                raise DataError(_fault(error.evalue)) from error
            raise
    stopped.unlink(missing_ok=True)


def _fault(said: str) -> str:
    """What an `OSError` of the kernel says, "[Errno 28] No space left on device: 'file'", with its remedy."""
    if not (parts := re.fullmatch(r"\[Errno (\d+)\] (.*?)(?:: '(.*?)')?(?: -> .*)?", said, re.DOTALL)):
        return f"{said}: name another place."
    return paths.fault(OSError(int(parts[1]), parts[2], parts[3]))


@contextmanager
def _lines() -> Iterator[None]:
    """Shows what bars in the kernel say (`progress.Lines`), as it comes, on the error output."""
    with tempfile.TemporaryDirectory() as folder:  # Windows lets no second process open a NamedTemporaryFile
        path, ended = Path(folder) / "lines", threading.Event()
        path.touch()
        os.environ[VARIABLE] = str(path)

        def show() -> None:
            last = False
            with path.open(encoding="utf-8") as file:
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
