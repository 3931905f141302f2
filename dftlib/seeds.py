"""Random numbers that are the same on every machine and in every process."""

from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> torch.Generator:
    """Seeds torch's global generators and returns a CPU generator of the same seed."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def rng(*words: int | np.integer[Any] | str) -> np.random.Generator:
    """A numpy generator that depends on `words` alone (the same on every machine and in every process)."""
    numbers = [int.from_bytes(w.encode(), "little") if isinstance(w, str) else int(w) for w in words]
    return np.random.default_rng(numbers)
