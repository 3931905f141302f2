"""What a run is told: a profile, read from `notebooks/profiles/NAME.yaml`, and what a notebook's user overrides."""

import ast
import difflib
import os
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
import yaml

from dftlib.datasets.base import DRAWN
from dftlib.errors import DataError
from dftlib.paths import PROFILES


@dataclass(frozen=True)
class Profile:
    """Every number that differs between a demonstration, a laptop run and the paper's own experiment.

    A count of 0 means 'all there are'. `datasets` stand, in this order, in the roles of the paper's LFW, CelebA and MUCT.
    """

    profile: str
    datasets: tuple[str, str, str]
    data_root: str  # folder that holds lfw/, celeba/, muct/; unused by the synthetic sets
    size: int  # pixels, height = width
    align: str  # 'chip' (by landmarks) | 'crop' (one for all, eyes in the same place) | 'none' (the usual crop)
    backbone: str  # 'dlib_age' | 'dlib_face' | 'vggface' | 'convnet'
    weights: str  # weight file of `vggface`, or of `dlib_face` ("": of its installed package), as backbone or as encoder
    protocols: tuple[str, ...]  # the first is the main one; Gender is reported under all
    seeds: tuple[int, ...]  # the first is the main one; Gender is reported under all
    every_seed: bool  # and so is every other attribute
    n_train: int  # pictures a classifier is trained on
    n_fit: int  # pictures a perturbation is fitted on
    n_val: int
    n_test: int
    head_epochs: int
    head_learning_rate: float
    box: str  # 'atanh' | 'printed' | 'clip'
    distance: str  # 'mean' | 'sum'
    weight: float
    min_psnr: float  # decibels that N must leave; 0: no limit
    temperature: float  # of the loss; 0: by the margins of the classifier's logits, 1: as printed
    balance: bool  # weigh fitting pictures so that every class counts the same
    optimiser: str  # 'adam' | 'steepest'
    mirror: bool  # mirror half of the fitting pictures at random
    learning_rate: float
    batch_size: int
    inner_steps: int  # optimiser steps on one batch before the next is drawn
    steps: int  # optimiser steps; 0: `epochs` passes over the fitting pictures
    epochs: int
    patience: int  # rounds (epochs, where `steps` is 0) without a better validation accuracy before the fit stops
    label_budgets: tuple[int, ...]  # labelled pictures that notebook 04 goes through
    label_draws: int  # times that a budget below 256 is drawn anew
    frontier_weights: tuple[float, ...]  # of the averaged distance, in notebook 05
    frontier_limits: tuple[float, ...]  # decibels, beside min_psnr itself
    query_datasets: tuple[str, ...]  # of `datasets`, those of notebook 06
    query_budgets: tuple[int, ...]  # pictures that it may ask
    encoder: str  # a known network, which it may use beside the classifier: a backbone
    attribute_data: str  # the data set of notebooks 07 to 09
    attribute_shape: tuple[int, int]  # height and width of its pictures
    attribute_network: str  # 'convnets' | 'vgg16'
    attribute_epochs: int
    attribute_learning_rate: float
    attribute_batch: int
    n_flip: int  # training pictures whose attributes are flipped
    precision: str  # 'auto' | 'float32' | 'bfloat16'
    device: str  # 'auto' | 'cpu' | 'cuda' | 'cuda:1' …

    @property
    def synthetic(self) -> bool:
        return set(self.datasets) <= set(DRAWN)


def load_profile(name: str, **overrides: Any) -> Profile:
    """The profile `name` with `overrides` laid over it; an unknown field or a missing one raises `DataError`."""
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise DataError(f"There is no profile '{name}': choose one of {known}, or write {path}.")
    values = {**yaml.safe_load(path.read_text(encoding="utf-8")), **overrides}
    names = [f.name for f in fields(Profile)]
    for unknown in sorted(set(values) - set(names)):
        near = difflib.get_close_matches(unknown, names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; the parameters are {', '.join(names)}."
        raise DataError(f"Unknown parameter '{unknown}'{hint}")
    if missing := sorted(set(names) - set(values)):
        raise DataError(f"Profile '{name}' lacks {', '.join(missing)}: add them to {path}.")
    for f in fields(Profile):
        values[f.name] = _typed(f.name, values[f.name], f.type)
    if values["precision"] not in ("auto", "float32", "bfloat16"):
        raise DataError(f"Parameter 'precision' must be auto, float32 or bfloat16, not {values['precision']!r}.")
    return Profile(**values)


def _typed(name: str, value: Any, kind: Any) -> Any:
    if str(kind).startswith("tuple"):
        item, *others = get_args(kind)
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        values = tuple(float(v) if item is float and type(v) is int else v for v in values)
        if not all(type(v) is item for v in values) or (... not in others and len(values) != 1 + len(others)) or not values:
            raise DataError(f"Parameter '{name}' must be {kind}, not {value!r}.")
        return values
    with suppress(TypeError, ValueError):
        typed = kind(value)
        exact = kind not in (int, bool) or typed == value or str(typed) == value
        if exact and (kind not in (int, float) or 0 <= typed < float("inf")):
            return typed
    raise DataError(f"Parameter '{name}' must be {kind.__name__}, not {value!r}.")


def parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that a notebook's parameters cell sets, of its `globals()`.

    In JupyterLab the cell that asks for them is run again, when later cells have made variables too: of cells run since it first
    asked only those count that set again what was set before, as the parameters cell does when it is changed.
    """
    cells = [(source, _set_in(source)) for source in namespace.get("In", [])]
    first = next((i for i, (source, _) in enumerate(cells) if "(globals())" in source), len(cells))
    before: set[str] = set().union(*(names for _, names in cells[:first]))
    again: set[str] = set().union(*(names for _, names in cells[first:] if names & before))
    later = set().union(*(names for _, names in cells[first:])) - before - again
    hidden = {"In", "Out", "exit", "quit", "get_ipython", "open", *later}
    return {
        k: v
        for k, v in namespace.items()
        if not (k.startswith("_") or k in hidden or isinstance(v, types.ModuleType | types.FunctionType | type))
    }


def _set_in(source: str) -> set[str]:
    """Names of the variables that code sets; none, where it can't be read."""
    with suppress(SyntaxError):
        return {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return set()


def from_notebook(namespace: Mapping[str, Any]) -> Profile:
    """The profile that a notebook's parameters cell names, with every other variable set there laid over it.

    Called with `globals()` right after the parameters cell. papermill only warns of a parameter that no notebook knows;
    here any variable that is no field of `Profile` raises `DataError`.
    """
    given = parameters(namespace)
    data_root = given.pop("data_root", "") or os.environ.get("DFT_DATA", "")
    name = given.pop("profile", "demo")
    return load_profile(name, **({"data_root": data_root} if data_root else {}), **given)


def overridden(profile: Profile) -> list[str]:
    """Names of the fields that change results and differ from the profile's file."""
    stock = load_profile(profile.profile)
    free = {"data_root", "weights", "device"}
    return [f.name for f in fields(Profile) if f.name not in free and getattr(stock, f.name) != getattr(profile, f.name)]


def device_of(profile: Profile) -> torch.device:
    name = profile.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", name):
        raise DataError(f"Parameter 'device' is '{name}': set it to 'auto', 'cpu', 'cuda' or 'cuda:1'.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DataError(f"Parameter 'device' is '{name}', but torch sees no CUDA device: set device to 'cpu' or 'auto'.")
    return torch.device(name)


def dtype_of(profile: Profile, device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32 ('auto'), or what the profile names.

    On CPUs without AVX-512 BF16 or AMX bfloat16 is emulated, several times slower than float32.
    """
    if profile.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[profile.precision]
    if device.type == "cuda":
        return torch.bfloat16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    barred = torch.backends.cpu.get_cpu_capability() != "AVX512"  # by ATEN_CPU_CAPABILITY, whatever the processor has
    return torch.bfloat16 if native and not barred else torch.float32
