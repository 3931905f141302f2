"""A classifier from the text that names it."""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dftlib.classifiers.answers import Reading
from dftlib.classifiers.black_box import BlackBox, CallableClassifier, first_line
from dftlib.classifiers.onnx_file import OnnxClassifier
from dftlib.classifiers.web_service import HttpClassifier
from dftlib.errors import DataError


def load_classifier(model: str, /, classes: int = 2, **options: Any) -> BlackBox:
    """What `model` names: an ONNX file '….onnx', a web service 'http(s)://…', or a Python function 'module:function'.

    `options` are those of `OnnxClassifier`, `HttpClassifier` or `CallableClassifier`. A module is looked for in the current
    folder too; unless given, the `identity` of its function changes with the module's source. Raises `DataError` for anything
    that can't be read, imported or understood.
    """
    kind: Callable[..., BlackBox] = HttpClassifier if model.startswith(("http://", "https://")) else OnnxClassifier
    what: Any = model
    if kind is OnnxClassifier and not model.endswith(".onnx"):
        if ":" not in model:
            raise DataError(f"'{model}' names no classifier: give a file .onnx, an address http(s)://… or module:function.")
        kind, (what, source) = CallableClassifier, _imported(model)
        read = Reading(classes, **{name: options[name] for name in ("numbers", "columns", "names") if name in options})
        options = {"identity": f"{model} {source} {classes} {read.text}", **options}
    known = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(known)):
        raise DataError(f"{kind.__name__} has no option '{unknown[0]}': its options are {', '.join(known)}.")
    try:
        return kind(what, classes, **options)
    except TypeError as error:  # such as batch: '8', from YAML
        raise DataError(f"{kind.__name__} can't take these options ({first_line(error)}): give numbers without quotes.") from None


def _imported(name: str) -> tuple[Callable[..., Any], str]:
    """The function 'module:function' and a digest of its module's source."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(f"'{module_name}' can't be imported ({type(error).__name__}: {first_line(error)}): mend it.") from error
    if not callable(function := getattr(module, function_name, None)):
        raise DataError(f"The module '{module_name}' has no function '{function_name}': write module:function.")
    return function, hashlib.sha256(Path(file).read_bytes() if (file := getattr(module, "__file__", None)) else b"").hexdigest()
