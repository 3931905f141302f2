"""Data sets of faces with attributes: three from disk, three drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dftlib.datasets import align, celeba, decode, lfw, muct, splits, synthetic
from dftlib.datasets.base import ATTRIBUTES, DRAWN, SPLITS, FaceDataset, Faces
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
    padding: float = align.PADDING,
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
    if way not in align.WAYS:
        raise DataError(f"There is no alignment '{way}': set 'align' to one of {', '.join(align.WAYS)}.")
    if name in DRAWN:
        return synthetic.load(name, size, seed, way, padding=padding)
    _need_root(name, root)
    table, folder, files, frame = FROM_DISK[name](Path(root))
    faces = align.pictures(name, folder, files, size, way, frame, padding)
    if "split" not in table:
        table = table.assign(split=splits.split(protocol, table["subject"].to_numpy(str), table["Gender"].to_numpy(), seed))
    return _dataset(name, table, files, faces.images, faces)


def _dataset(name: str, table: pd.DataFrame, files: list[str], images: NDArray[np.uint8], faces: Faces | None) -> FaceDataset:
    labels = table.drop(columns=["subject", "split"]).reset_index(drop=True)
    subjects, split = (table[column].to_numpy(str) for column in ("subject", "split"))
    return FaceDataset(name, images, labels, subjects, split, np.array(files), faces)


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
        table, folder, files, _ = celeba.load(Path(root), None)
        images = decode.pictures(name, folder, files, shape, (0.0, 0.0, 1.0, 1.0))  # hats and neckties lie outside the crop
        return _dataset(name, table, files, images, None)
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
