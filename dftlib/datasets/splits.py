"""Who is trained on, who is chosen on, who is measured: 60/20/20, with or without one person on two sides."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dftlib import seeds
from dftlib.datasets.base import SPLITS

PROTOCOLS = ("subject", "paper")


def paper_split(labels: NDArray[Any], seed: int) -> NDArray[np.str_]:
    """N of 'train', 'val', 'test', 60/20/20 within each class of `labels`: the paper's protocol.

    One person's pictures fall on several sides.
    """
    split = np.empty(len(labels), "<U5")
    random = seeds.rng("split", seed)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        ends = [round(0.6 * len(members)), round(0.8 * len(members))]
        for side, part in zip(SPLITS, np.split(members, ends), strict=True):
            split[part] = side
    return split


def subject_split(subjects: NDArray[np.str_], labels: NDArray[Any], seed: int) -> NDArray[np.str_]:
    """As `paper_split`, of people instead of pictures: all pictures of one person are on one side.

    A person counts in the class that most of their pictures have (the lower one in a tie: LFW labels some both ways).
    """
    people, who = np.unique(subjects, return_inverse=True)
    classes, what = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(people), len(classes)), int)
    np.add.at(counts, (who, what), 1)
    return paper_split(classes[counts.argmax(1)], seed)[who]


def split(protocol: str, subjects: NDArray[np.str_], labels: NDArray[Any], seed: int) -> NDArray[np.str_]:
    """The split that `protocol`, one of `PROTOCOLS`, names."""
    return paper_split(labels, seed) if protocol == "paper" else subject_split(subjects, labels, seed)
