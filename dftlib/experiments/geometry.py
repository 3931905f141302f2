"""Where a collapse between data sets may come from: one frozen classifier of aligned faces, and test images cut elsewhere.

For every cut: accuracy as it is, under the best threshold, and under an N fitted on images cut alike; beside them the
aligned images without and with an N of their own.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from dftlib import artefacts
from dftlib.datasets.base import Split
from dftlib.experiments.lab import Lab, content, under
from dftlib.experiments.outcome import Cell, by_threshold
from dftlib.metrics import classification
from dftlib.metrics.comparison import compare
from dftlib.progress import tqdm

MOVED = (-0.2, -0.1, 0.0, 0.1, 0.2)  # of the crop's width, downwards
SCALED = (0.75, 1.0, 1.25, 1.5)  # times as wide


@dataclass(frozen=True)
class Cut:
    """One way of cutting test images out: `change` ('moved', 'scaled', 'other'), a name, and the arguments of `Faces.recut`."""

    change: str
    name: str
    way: str = "chip"
    place: dict[str, float] = field(default_factory=dict)

    @property
    def aligned(self) -> bool:
        return self.way == "chip" and not self.place


def cuts(lab: Lab) -> list[Cut]:
    """The aligned face, moved, scaled, the usual crop and the whole picture; of drawn sets fewer, and no other whole picture."""
    few = lab.profile.synthetic
    moved, scaled = (MOVED[1:4], SCALED[1::2]) if few else (MOVED, SCALED)
    names = {0.0: "in place"} | {d: f"{100 * abs(d):.0f} % {'up' if d < 0 else 'down'}" for d in moved if d}
    found = [Cut("moved", names[d], place={"down": d} if d else {}) for d in moved]
    found += [Cut("scaled", f"{s:g} x", place={"scale": s} if s != 1 else {}) for s in scaled]
    return [*found, Cut("other", "usual crop", "none"), *([] if few else [Cut("other", "whole picture", "whole")])]


def cells(lab: Lab) -> list[Cell]:
    """One Gender classifier, that of the first data set, before images of its own set and of the second."""
    first, second, _ = lab.profile.datasets
    known = [c for c in lab.main(2, 5) if c.attribute == "Gender" and c.model == first]
    return [c for name in (first, second) for c in known if c.data == name]


def misplaced(lab: Lab) -> pd.DataFrame:
    """A row per cell and cut, in percent of the same test images, with 95 % intervals of a bootstrap over people.

    The classifier is that of aligned faces, whatever the profile's own alignment.

    before, threshold, after:  these images as they are; with the threshold that is best on fitting images cut alike; under an
                               N fitted on those
    aligned, aligned_threshold, aligned_after:  the same of aligned images, equal in every row of a cell
    trivial:                   the majority class of the fitting images
    rise, over_threshold, repair:  after less before, after less threshold, aligned less before
    short:                     aligned less after: what aligning repairs beyond N
    left:                      aligned_after less after: what the cut still costs once both have an N
    auc_before, auc_after, auc_aligned:  areas under the ROC curve, in [0, 1], which no threshold moves
    middle, line, distance:    of the eyes, on average: percent of the width, of the height, of the width
    """
    lab = lab if lab.profile.align == "chip" else lab.other(align="chip")
    jobs = list(product(cells(lab), cuts(lab)))
    return pd.DataFrame([_row(lab, *job) for job in tqdm(jobs, desc="misplaced faces", unit="cut")])


def _row(lab: Lab, cell: Cell, cut: Cut) -> dict[str, object]:
    fit, _, test = lab.splits(cell)
    own, place = lab.outcome(cell), eyes(lab, cell, cut)
    aligned = {name: own.scores[name] for name in ("train", "before", "after")}
    scores = aligned if cut.aligned else _scores(lab, cell, cut)
    remedies = {
        "threshold": by_threshold(scores["train"], fit.labels, scores["before"], test),
        "trivial": test.labels.numpy() == int(fit.labels.double().mean() >= 0.5),
        "aligned": aligned["before"],
        "aligned_threshold": by_threshold(aligned["train"], fit.labels, aligned["before"], test),
        "aligned_after": aligned["after"],
    }
    found = compare(scores["before"], scores["after"], test, remedies)
    row: dict[str, object] = {
        "attribute": cell.attribute, "data": cell.data, "model": cell.model, "protocol": cell.protocol, "seed": cell.seed,
        "n_test": len(test), "people": len(np.unique(test.subjects)), "change": cut.change, "cut": cut.name, **place,
    }  # fmt: skip
    for name, right in found.right.items():
        ends = classification.interval(classification.share(right, found.drawn))
        row |= {name: found.accuracy(name), f"{name}_lo": 100 * ends[0], f"{name}_hi": 100 * ends[1]}
    pairs = {"rise": ("before", "after"), "over_threshold": ("threshold", "after")}
    pairs |= {"repair": ("before", "aligned"), "short": ("after", "aligned"), "left": ("after", "aligned_after")}
    for name, (worse, better) in pairs.items():
        row |= {f"{name}{end}": value for end, value in found.over(worse, better).items()}
    areas, one = found.areas(), np.ones((1, len(test)))
    aligned_area = float(classification.area(found.scores["aligned"], found.labels, one)[0])
    return row | {"auc_before": areas["auc_before"], "auc_after": areas["auc_after"], "auc_aligned": aligned_area}


def eyes(lab: Lab, cell: Cell, cut: Cut) -> dict[str, float]:
    """Where the eyes of the test images are, on average: middle and distance in percent of the width, line of the height."""
    left, right = 100 * recut(lab, cell, lab.splits(cell)[2], cut)[1].mean(0)
    middle, line = (left + right) / 2
    return {"middle": float(middle), "line": float(line), "distance": float(right[0] - left[0])}


def recut(lab: Lab, cell: Cell, split: Split, cut: Cut) -> tuple[Split, NDArray[np.floating[Any]]]:
    """The images of a split cut in another way, and where their eyes are (n x 2 x 2, fractions)."""
    faces = lab.faces(cell.data, cell.protocol).faces
    assert faces is not None
    if cut.aligned:
        return split, faces.eyes[split.rows]
    assert faces.recut is not None
    made = faces.recut(split.rows, cut.way, **cut.place)
    return Split(made.images, split.labels, split.subjects), made.eyes


def _scores(lab: Lab, cell: Cell, cut: Cut) -> dict[str, Tensor]:
    """Scores n x 2: of the test images and of the fitting images ('train') as they are, and of the test images under N."""
    fit, val, test = (recut(lab, cell, split, cut)[0] for split in lab.splits(cell))
    pictures = [content(split.images) for split in (fit, val, test)]

    def make() -> dict[str, Tensor]:
        model, found = lab.model(cell), lab.fitted(cell, known=(fit, val), pictures=pictures)
        plain = {name: model.scores(split.images) for name, split in (("train", fit), ("before", test))}
        return plain | {"after": under(model, found, test.images)}

    return artefacts.tensors("misplaced", 1, {**lab.fit_key(cell), "pictures": pictures}, make)
