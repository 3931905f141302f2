"""Batches of images: uint8 grey levels on their way, float32 in [0, 1] where they are computed with."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib.errors import DataError

Pictures = NDArray[np.uint8] | Tensor


def batches(images: Pictures, device: torch.device | None = None) -> Iterator[Pictures]:
    """The images, so many at a time as `device` (by default where they are) computes fastest with."""
    device = device or (images.device if isinstance(images, Tensor) else torch.device("cpu"))
    size = 512 if device.type == "cuda" else 64  # of a network's layers for more, a processor's cache holds too little
    return (images[start : start + size] for start in range(0, len(images), size))


def as_tensor(images: Pictures) -> Tensor:
    """The images, an array (perhaps read-only) copied into a tensor."""
    return torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images


def to_float(images: Pictures, device: torch.device) -> Tensor:
    """Images n x C x H x W on `device`, float32 in [0, 1], channels-last; uint8 travels as uint8 and is divided by 255 there."""
    tensor = as_tensor(images).to(device).contiguous(memory_format=torch.channels_last)
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor.float()


def require_range(images: Pictures) -> None:
    """Raises `DataError` unless images are uint8, or float and all within [0, 1] (on `meta`: any); reads a batch at a time."""
    if not isinstance(images, np.ndarray | Tensor):
        raise DataError(f"Images must be arrays or tensors, not {type(images).__name__}: convert them.")
    whole = images.dtype in (np.uint8, torch.uint8)
    floats = images.is_floating_point() if isinstance(images, Tensor) else np.issubdtype(images.dtype, np.floating)
    if not whole and not floats:
        raise DataError(f"Images must be uint8, or float in [0, 1], not {images.dtype}: convert them.")
    if whole or (isinstance(images, Tensor) and images.is_meta):
        return
    images = images.detach() if isinstance(images, Tensor) else images
    for batch in batches(images) if images.ndim > 3 else [images]:
        low, high = float(batch.min()), float(batch.max())
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"Float images must lie in [0, 1], and these reach from {low:.9g} to {high:.9g}: divide grey levels by 255, "
                "leave normalisation to the network, and clamp what resizing left outside."
            )


def whole_levels(images: Pictures) -> NDArray[np.uint8]:
    """Pictures n x 3 x H x W as whole grey levels, uint8 0 to 255: what leaves the computer. Raises as `require_range`."""
    require_range(images)
    tensor = as_tensor(images).detach().cpu()
    return (tensor.float() * 255).round().clamp(0, 255).byte().numpy() if tensor.is_floating_point() else tensor.byte().numpy()
