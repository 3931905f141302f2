"""tqdm where somebody watches: as text in a terminal, as widgets in JupyterLab, nothing elsewhere."""

import os
from typing import Any

from tqdm import notebook, std


def in_jupyter() -> bool:
    """Whether a Jupyter server started this kernel, so that a person sees widgets; papermill, nbconvert and nbval don't."""
    return "JPY_SESSION_NAME" in os.environ


def tqdm(*items: Any, silent: bool = False, **options: Any) -> Any:
    """A bar with tqdm's own arguments; `silent` shows none."""
    kind: Any = notebook.tqdm if in_jupyter() else std.tqdm
    return kind(*items, disable=silent or (False if in_jupyter() else None), **options)  # None: unless this is a terminal
