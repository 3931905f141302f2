"""A classifier in an ONNX file, run by onnxruntime."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dftlib.classifiers.answers import Reading
from dftlib.classifiers.black_box import BlackBox, first_line, optional
from dftlib.errors import DataError

KINDS = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
}  # fmt: skip
COLOURS = ("rgb", "bgr", "grey")
FACTOR = 0.03  # a deviation below is a factor: on pictures in [0, 1] none deviates so little


class OnnxClassifier(BlackBox):
    """A model file, run by onnxruntime on the processor.

    Its input, of whatever type, is (grey level - `mean`) / `deviation`, both in grey levels 0 to 255, one number or one for each
    colour in the order of `colours`: 'rgb', 'bgr' or 'grey', which a file of one channel gets anyhow; integers are the grey
    levels themselves. `layout`, 'nchw' or 'nhwc', is that which the file declares. An input n x k gets flattened pictures, and
    needs `layout` if they are in colour; n x height x width gets grey ones. `inputs` are the numbers for further inputs, by
    name. `output` is the name of the output that counts: by default the one of n x `classes`, or else the first. `numbers`,
    `columns` and `names` say how it is read, as in `Reading`. A file that can't take several pictures at once gets them one by
    one. `identity` covers the file and `FILE.data`, where torch puts the weights. Raises `DataError` for a file that can't be
    run or isn't asked as it declares.
    """

    def __init__(
        self, path: str | Path, classes: int = 2, *, mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 255.0, colours: str = "rgb", layout: str = "", batch: int = 256,
        inputs: Mapping[str, float] | None = None, output: str = "", numbers: str = "probabilities", columns: Sequence[int] = (),
        names: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        if layout not in ("", "nchw", "nhwc") or colours not in COLOURS:
            raise DataError(f"Layout '{layout}', colours '{colours}': choose 'nchw' or 'nhwc', and one of {', '.join(COLOURS)}.")
        files = [file for file in (Path(path), Path(f"{path}.data")) if file.is_file()]
        if Path(path) not in files:
            raise DataError(f"There is no model file {path}: give the path of an ONNX file.")
        reading, self._given = Reading(classes, numbers, columns, names), dict(inputs or {})
        who = f"The model {Path(path).name}"
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else the import writes to the user's home and reports to its maker
        runtime = optional("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(f"{who} can't be run ({first_line(error)}): export it again.") from error
        entry = self._pictures(who)
        self._kind, self._rank, self._colours = KINDS[entry.type], len(entry.shape or "nchw"), colours
        self._mean, self._deviation = _normalisation(mean, deviation, colours, self._kind)
        axes, self._layout = _axes(who, list(entry.shape), layout)
        declared = {axis: n for axis, n in zip(axes, entry.shape, strict=False) if isinstance(n, int) and n > 0}
        self._height, self._width, self._numbers = (declared.get(axis) for axis in "hwk")
        self._channels = declared.get("c") or (1 if self._rank == 3 else None)
        if self._height and self._width:
            self.size = self._height, self._width
        elif n := self._numbers:  # that of a square, in grey or colour
            sides = {channels: math.isqrt(n // channels) for channels in (1, 3)}
            self.size = next(((side, side) for channels, side in sides.items() if side**2 * channels == n), None)
        self._input, self._fixed = entry.name, "n" in declared
        self._output = _output(who, self._session.get_outputs(), output, classes)
        content = " ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        grey = [v.ravel().tolist() for v in (self._mean, self._deviation)]
        identity = f"onnx {content} {classes} {grey} {self._layout or 'nchw'} {self._kind} {reading.text}"
        for name, value in (("colours", colours.replace("rgb", "")), ("inputs", self._given), ("output", output)):
            identity += f" {name} {value}" if value else ""
        super().__init__(who, identity, reading, declared.get("n", batch))

    def _pictures(self, who: str) -> Any:
        """The input that takes the pictures; the others have their numbers in `inputs`."""
        entries = {entry.name: entry for entry in self._session.get_inputs()}
        if unknown := sorted(set(self._given) - set(entries)):
            raise DataError(f"{who} has no input '{unknown[0]}': its inputs are {', '.join(entries)}.")
        free = [entry for name, entry in entries.items() if name not in self._given]
        shaped = [entry for entry in free if 2 <= len(entry.shape or ()) <= 4] or [entry for entry in free if not entry.shape]
        if not shaped:
            raise DataError(f"{who} takes no pictures: export it with an input of n x 3 x height x width.")
        pictures = max(shaped, key=lambda entry: len(entry.shape or ()))
        if others := [entry.name for entry in free if entry is not pictures]:
            remedy = f"set `inputs` to what it is in use, such as {{{others[0]}: 1.0}}"
            raise DataError(f"{who} takes '{others[0]}' beside pictures: {remedy}.")
        if KINDS.get(pictures.type, "bool") == "bool":
            raise DataError(f"{who} takes {pictures.type}: export it with an input of float32.")
        self._others = [entries[name] for name in self._given]
        if strange := [entry.type for entry in self._others if entry.type not in KINDS]:
            raise DataError(f"{who} takes {strange[0]}, which `inputs` can't give: export it without that input.")
        return pictures

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        height, width = pictures.shape[2:]
        if (wanted := (self._height or height, self._width or width)) != (height, width):
            size = f"{wanted[0]} x {wanted[1]} pixels (height x width), not {height} x {width}"
            raise DataError(f"{self._who} takes pictures of {size}: resize them (`pixels`: {list(wanted)}).")
        missing = self.batch - len(pictures) if self._fixed else 0
        entry = self._arranged(np.pad(pictures, [(0, missing), (0, 0), (0, 0), (0, 0)], mode="edge"))
        answer: Any
        answer, why = self._run(entry) if self.batch > 1 or len(entry) == 1 else (None, "one at a time")
        if why and len(entry) > 1 and not self._fixed:
            answer = []
            for picture in entry:
                part, why = self._run(picture[None])
                if why:
                    break
                answer += list(part) if np.ndim(part) and len(part) == 1 else [part]
            else:
                self.notes += [f"{self._who} takes one picture at a time: it was asked so."] if self.batch > 1 else []
                self.batch = 1
        if why:
            remedy = "export it again" if self._height and self._width else "set `pixels` to the size that it was made for"
            raise DataError(f"{self._who} fails on pictures of {height} x {width} pixels ({why}): {remedy}.")
        return answer[:-missing] if missing else answer

    def _run(self, entry: NDArray[Any]) -> tuple[Any, str]:
        """The answers to these, and why there are none."""
        given = {self._input: entry}
        for other in self._others:
            shape = [n if isinstance(n, int) and n > 0 else len(entry) for n in other.shape]
            given[other.name] = np.full(shape, self._given[other.name], KINDS[other.type])
        try:
            (answer,) = self._session.run([self._output], given)
        except Exception as error:
            return None, first_line(error)
        if np.ndim(answer) == 0 or len(answer) != len(entry):
            return answer, f"it answers with {np.shape(answer)} to {len(entry)}" if len(entry) > 1 else ""
        return answer, ""

    def _arranged(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        """Pictures uint8 n x 3 x H x W as the file takes them."""
        entry: NDArray[Any] = pictures
        height, width = pictures.shape[2:]
        channels = self._channels or (1 if self._colours == "grey" else 3)
        if self._numbers:
            channels, rest = divmod(self._numbers, height * width)
            if rest or channels not in (1, 3):
                taken = f"{self._numbers} numbers a picture, not {height} x {width} pixels in one or three colours"
                raise DataError(f"{self._who} takes {taken}: set `pixels` to what they were flattened from.")
        if channels == 3 and self._colours == "grey":
            raise DataError(f"{self._who} takes three colours: set `colours` to 'rgb' or 'bgr'.")
        if channels == 3 and self._rank == 2 and not self._layout:
            raise DataError(f"{self._who} takes flattened pictures: set `layout` to 'nhwc' or 'nchw', as they were before.")
        if channels == 1:
            note = f"{self._who} takes grey pictures: it was asked with those, as ITU-R 601 weighs the colours."
            self.notes += [note] if self._colours != "grey" and note not in self.notes else []
            coloured = (Image.fromarray(picture) for picture in pictures.transpose(0, 2, 3, 1))
            entry = np.stack([np.asarray(picture.convert("L")) for picture in coloured])[:, None]
            if max(self._mean.size, self._deviation.size) > 1:
                raise DataError(f"{self._who} takes grey pictures: set `mean` and `deviation` to one number each.")
        elif self._colours == "bgr":
            entry = pictures[:, ::-1]
        if self._kind.startswith("float"):
            entry = (entry - self._mean) / self._deviation
        entry = entry.transpose(0, 2, 3, 1) if self._layout == "nhwc" else entry
        entry = entry[:, 0] if self._rank == 3 else entry.reshape(len(entry), -1) if self._rank == 2 else entry
        return np.ascontiguousarray(entry.astype(self._kind))


def _axes(who: str, shape: list[Any], layout: str) -> tuple[str, str]:
    """What each axis of the input is, and the layout, '' where it makes no difference."""
    if len(shape) in (2, 3):
        return ("nk", layout) if len(shape) == 2 else ("nhw", "")
    channels = {"nchw": shape[1], "nhwc": shape[3]} if shape else {}
    fitting = [name for name, n in channels.items() if n in (1, 3)]
    if not layout:
        layout = next(iter(fitting), "nchw")
    n = channels.get(layout)
    if isinstance(n, int) and n > 0 and n not in (1, 3):
        remedy = "set `layout` to the other one" if fitting else "export it for 3 channels, or for 1, which is grey"
        raise DataError(f"{who} takes {n} colour channels in the layout {layout}: {remedy}.")
    return layout, layout


def _output(who: str, outputs: list[Any], wanted: str, classes: int) -> str:
    names = [o.name for o in outputs]
    if wanted and wanted not in names:
        raise DataError(f"{who} has no output '{wanted}': set `output` to one of {', '.join(names)}.")
    fitting = [o.name for o in outputs if len(o.shape or ()) > 1 and o.shape[-1] == classes]
    fitting += [o.name for o in outputs if o.type.startswith("seq(map")]  # scikit-learn's probabilities, behind its labels
    return wanted or next(iter(fitting), names[0])


def _normalisation(mean: Any, deviation: Any, colours: str, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and deviation, each 1 or 3 x 1 x 1; `DataError` for what can't be meant in grey levels."""
    try:
        m, d = (np.array(v, np.float64) for v in (mean, deviation))
    except (TypeError, ValueError):
        m, d = np.array(np.nan), np.array(np.nan)
    shapes = [()] if colours == "grey" else [(), (3,)]
    if m.shape not in shapes or d.shape not in shapes or not d.all() or not np.isfinite([*m.flat, *d.flat]).all():
        count = "one number" if colours == "grey" else "one number or three"
        raise DataError(f"`mean` and `deviation` are {count}, in grey levels, and no deviation is 0: set them so.")
    if not kind.startswith("float") and (m.any() or (d != 255).any()):
        raise DataError(f"The model takes whole grey levels ({kind}): leave `mean` and `deviation` away.")
    if (np.abs(d) < 1).any() or ((np.abs(m) > 0) & (np.abs(m) < 1)).any():
        right_mean = np.where(np.abs(m) <= 1, m * 255, m)
        right = 1 / d if (np.abs(d) < FACTOR).all() else np.where(np.abs(d) <= 1, d * 255, d)
        said = [f"`{name}` {np.round(v, 3).tolist()}" for name, v in (("mean", right_mean), ("deviation", right))]
        raise DataError(f"`mean` and `deviation` are in grey levels, 0 to 255, and these can't be: set {' and '.join(said)}.")
    as_kind = np.float64 if kind == "float64" else np.float32
    return m.astype(as_kind).reshape(-1, 1, 1), d.astype(as_kind).reshape(-1, 1, 1)
