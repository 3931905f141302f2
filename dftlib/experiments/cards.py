"""What the card of a perturbation says beyond what its fit knows: what became of validation and test images."""

from typing import Any

from dftlib.experiments.lab import Lab, under
from dftlib.experiments.outcome import Cell, beside_simple
from dftlib.metrics.comparison import Comparison
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm


def with_evidence(found: Perturbation, chosen: Comparison, measured: Comparison, **more: Any) -> Perturbation:
    """The perturbation as its validation images decide and its test images show, with `more` of `about`."""
    decided = {"recommended": chosen.recommended, "why_not": chosen.why_not, "validation": chosen.evidence()}
    return found.with_about({**found.about, **decided, "test": measured.evidence(), **more})


def carded(lab: Lab, cell: Cell) -> Perturbation:
    """The perturbation of a cell, once its classifier has answered validation and test images before and after."""
    found, model, (fit, val, test) = lab.fitted(cell), lab.model(cell), lab.splits(cell)
    answers = model.scores(fit.images)
    chosen, measured = (
        beside_simple(model.scores(split.images), under(model, found, split.images), split, answers, fit)
        for split in tqdm((val, test), desc="card", unit="split")
    )
    return with_evidence(found, chosen, measured)
