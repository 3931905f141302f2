"""Data sets of faces with attributes: three from disk, three drawn."""

from pathlib import Path

from dftlib.datasets import celeba, lfw, muct, splits, synthetic
from dftlib.datasets.align import PADDING
from dftlib.datasets.base import ATTRIBUTES, DRAWN, SPLITS, FaceDataset
from dftlib.errors import DataError

__all__ = ["ATTRIBUTES", "SPLITS", "FaceDataset", "load_attributes", "load_dataset", "require_two_classes"]

FROM_DISK = {"lfw": lfw.load, "celeba": celeba.load, "muct": muct.load}


def load_dataset(
    name: str,
    root: str | Path = "",
    size: int = 64,
    protocol: str = "subject",
    seed: int = 0,
    way: str = "chip",
    padding: float = PADDING,
) -> FaceDataset:
    """The data set `name`, its faces size x size, split by `protocol` ('subject' or 'paper') and `seed`.

    way: 'chip' (aligned by landmarks), 'crop' (one crop for all, eyes in the same place) or 'none' (the usual crop of each set).
    padding: around the face of a chip, as a share of the average face's size: a backbone's (`Backbone.padding`).
    `root` holds lfw/, celeba/ and muct/ in their own layouts; the drawn sets need none.
    Raises `DataError` for an unknown name, protocol or way, and for anything missing or damaged on disk.
    """
    if name not in (known := (*FROM_DISK, *DRAWN)):
        raise DataError(f"There is no data set '{name}': choose one of {', '.join(known)}.")
    if protocol not in splits.PROTOCOLS:
        raise DataError(f"There is no protocol '{protocol}': choose one of {', '.join(splits.PROTOCOLS)}.")
    if name in DRAWN:
        return synthetic.load(name, size, seed, way, padding=padding)
    _need_root(name, root)
    return FROM_DISK[name](Path(root), size, protocol, seed, way, padding)


def _need_root(name: str, root: str | Path) -> None:
    if not str(root):
        raise DataError(
            f"Data set '{name}' is read from disk: set the parameter data_root, or the environment variable DFT_DATA, to the "
            f"folder that holds {name}/ (dft download {name} --to FOLDER fetches it)."
        )


def load_attributes(name: str, root: str | Path, shape: tuple[int, int]) -> FaceDataset:
    """Whole pictures, `shape` (height, width), with every attribute the set has: CelebA's 40, or the seven of a drawn set.

    Raises `DataError` for another data set, for a drawn set that isn't square, and for anything missing or damaged on disk.
    """
    if name == "celeba":
        _need_root(name, root)
        return celeba.load_all(Path(root), shape)
    if name not in DRAWN or shape[0] != shape[1]:
        raise DataError(f"Attributes of '{name}' at {shape[0]} x {shape[1]} can't be had: choose celeba, or a drawn set, square.")
    return synthetic.load(name, shape[0], 0, "none")


def require_two_classes(dataset: FaceDataset, attribute: str) -> None:
    """Raises `DataError` unless each split of the data set has pictures with and without `attribute`."""
    if attribute not in ATTRIBUTES:
        raise DataError(f"There is no attribute '{attribute}': choose one of {', '.join(ATTRIBUTES)}.")
    values = dataset.labels[attribute].to_numpy()
    if (values < 0).all():
        known = ", ".join(a for a in ATTRIBUTES if (dataset.labels[a] >= 0).any())
        raise DataError(f"Data set '{dataset.name}' has no labels for '{attribute}': choose one of {known}.")
    for side in SPLITS:
        for value, word in ((1, "present"), (0, "absent")):
            if not (values[dataset.split == side] == value).any():
                raise DataError(
                    f"Data set '{dataset.name}' has no picture in its {side} split where '{attribute}' is {word}: "
                    "choose another attribute or take more pictures."
                )
