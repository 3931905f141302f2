"""A classifier in an ONNX file, run by onnxruntime."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dftlib.classifiers.black_box import BlackBox, first_line, optional
from dftlib.errors import DataError


def onnxruntime() -> Any:
    """The package, imported with its telemetry off: else it writes to the user's home and reports to its maker."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the package is imported
    return optional("onnxruntime")


class OnnxClassifier(BlackBox):
    """A model file, run by onnxruntime on the processor; uses its output n x `classes`, or else its first.

    Its input is (grey level - `mean`) / `deviation`, both in grey levels 0 to 255, one number or one for each of R, G, B; with
    `dtype` 'uint8' it is the grey levels themselves. `layout` is 'nchw' or 'nhwc', `dtype` 'float32', 'float16' or 'uint8'.
    `size` is the H = W in pixels that the file declares, None where it doesn't. `identity` covers the file and `FILE.data`,
    where torch puts the weights. Raises `DataError` for a file that can't be run or isn't asked as it declares.
    """

    def __init__(
        self, path: str | Path, classes: int = 2, *, mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 255.0, layout: str = "nchw", dtype: str = "float32", batch: int = 256,
        logits: bool = False,
    ) -> None:  # fmt: skip
        types = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
        if layout not in ("nchw", "nhwc") or dtype not in types:
            raise DataError(f"Layout '{layout}', dtype '{dtype}': choose 'nchw' or 'nhwc', and one of {', '.join(types)}.")
        if any(np.shape(v) not in ((), (3,)) for v in (mean, deviation)) or not np.all(deviation):
            raise DataError("`mean` and `deviation` are one number or three, in grey levels, and no deviation is 0: set them so.")
        files = [file for file in (Path(path), Path(f"{path}.data")) if file.is_file()]
        if Path(path) not in files:
            raise DataError(f"There is no model file {path}: give the path of an ONNX file.")
        who = f"The model {Path(path).name}"
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(f"{who} can't be run ({first_line(error)}): export it again.") from error
        entry, *others = self._session.get_inputs()
        if others or (entry.shape and len(entry.shape) != 4):
            raise DataError(f"{who} takes more than pictures, or not n of them: export it with one input of four dimensions.")
        if entry.type != types[dtype]:
            raise DataError(f"{who} takes {entry.type}, not {dtype}: set `dtype` to what it takes.")
        declared = {axis: n for axis, n in zip(layout, entry.shape, strict=False) if isinstance(n, int) and n > 0}
        if declared.get("c", 3) != 3:
            raise DataError(f"{who} takes {declared['c']} colour channels in the layout {layout}: set `layout` to the other one.")
        self._height, self._width = declared.get("h"), declared.get("w")
        self.size = self._height if self._height == self._width else None
        self._input, self._fixed, self._dtype, self._layout = entry.name, "n" in declared, dtype, layout
        self._mean, self._deviation = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (mean, deviation))
        outputs = self._session.get_outputs()
        self._output = next((o.name for o in outputs if len(o.shape or ()) > 1 and o.shape[-1] == classes), outputs[0].name)
        content = " ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        grey = [v.ravel().tolist() for v in (self._mean, self._deviation)]
        identity = f"onnx {content} {classes} {grey} {layout} {dtype} {'logits' if logits else 'scores'}"
        super().__init__(who, identity, classes, declared.get("n", batch), logits)

    def _answer(self, pictures: NDArray[np.uint8]) -> Any:
        height, width = pictures.shape[2:]
        if (wanted := (self._height or height, self._width or width)) != (height, width):
            size = f"{wanted[0]} x {wanted[1]} pixels (height x width), not {height} x {width}"
            raise DataError(f"{self._who} takes pictures of {size}: resize them.")
        missing = self.batch - len(pictures) if self._fixed else 0
        entry: NDArray[Any] = np.pad(pictures, [(0, missing), (0, 0), (0, 0), (0, 0)], mode="edge")
        if self._dtype != "uint8":
            entry = ((entry - self._mean) / self._deviation).astype(self._dtype)
        entry = np.ascontiguousarray(entry.transpose(0, 2, 3, 1)) if self._layout == "nhwc" else entry
        try:
            (answer,) = self._session.run([self._output], {self._input: entry})
        except Exception as error:
            why = first_line(error)
            raise DataError(f"{self._who} fails on pictures of {height} x {width} pixels ({why}): try another size.") from error
        return answer[:-missing] if missing else answer
