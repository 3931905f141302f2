"""tqdm where somebody watches: as text in a terminal, as widgets in JupyterLab, nothing elsewhere."""

import os
from typing import Any

from tqdm import std


def in_jupyter() -> bool:
    """Whether a Jupyter server started this kernel, so that a person sees widgets; papermill, nbconvert and nbval don't."""
    return "JPY_SESSION_NAME" in os.environ


def tqdm(*items: Any, silent: bool = False, **options: Any) -> Any:
    """A bar with tqdm's own arguments; `silent` shows none."""
    kind: Any = std.tqdm
    quiet: bool | None = silent or None  # None: unless this is a terminal
    if in_jupyter():
        from tqdm import notebook  # it brings ipywidgets, which no command needs

        kind, quiet = notebook.tqdm, silent
    return kind(*items, disable=quiet, **options)
