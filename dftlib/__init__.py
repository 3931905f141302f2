"""Data fine-tuning: one perturbation for a whole data set that raises the accuracy of a classifier nobody may change.

    from dftlib import TorchClassifier, compare, fit

    classifier = TorchClassifier(network)
    n = fit(classifier, images, labels, val_images, val_labels)
    tuned = n.apply_uint8(test_images)

The names below are imported when they are first used: importing dftlib costs nothing and changes nothing in the process.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dftlib.classifiers.base import TorchClassifier as TorchClassifier
    from dftlib.classifiers.load import load_classifier as load_classifier
    from dftlib.datasets.base import Split as Split
    from dftlib.errors import DataError as DataError
    from dftlib.metrics.comparison import Comparison as Comparison
    from dftlib.metrics.comparison import compare as compare
    from dftlib.perturbation.from_scores import fit_black_box as fit_black_box
    from dftlib.perturbation.gradient import Settings as Settings
    from dftlib.perturbation.gradient import fit as fit
    from dftlib.perturbation.perturbation import Perturbation as Perturbation

    __version__: str

_HOME = {
    "fit": "perturbation.gradient",
    "fit_black_box": "perturbation.from_scores",
    "Settings": "perturbation.gradient",
    "Perturbation": "perturbation.perturbation",
    "TorchClassifier": "classifiers.base",
    "load_classifier": "classifiers.load",
    "Split": "datasets.base",
    "compare": "metrics.comparison",
    "Comparison": "metrics.comparison",
    "DataError": "errors",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which takes a tenth of a second

        value: Any = version("dftlib")
    elif name in _HOME:
        value = getattr(import_module(f"dftlib.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'dftlib' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
