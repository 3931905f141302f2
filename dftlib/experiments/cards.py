"""What the card of a cell's perturbation says beyond what its fit knows."""

from dftlib.experiments.lab import Lab, under
from dftlib.experiments.outcome import Cell, beside_simple
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm


def carded(lab: Lab, cell: Cell) -> Perturbation:
    """The perturbation of a cell, once its classifier has answered validation and test images before and after."""
    found, model, (fit, val, test) = lab.fitted(cell), lab.model(cell), lab.splits(cell)
    answers = model.scores(fit.images)
    chosen, measured = (
        beside_simple(model.scores(split.images), under(model, found, split.images), split, answers, fit)
        for split in tqdm((val, test), desc="card", unit="split")
    )
    about = {**found.about, "recommended": chosen.recommended, "why_not": chosen.why_not}
    about |= {"validation": chosen.evidence(), "test": measured.evidence()}
    return found.with_about(about)
