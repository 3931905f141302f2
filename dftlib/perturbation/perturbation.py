"""`Perturbation`: one N for a whole data set, as it is applied, saved and loaded (Data Fine-tuning, equations 4 and 5)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dftlib.artefacts import whole
from dftlib.errors import DataError
from dftlib.images import Pictures, batches, require_range, to_float
from dftlib.perturbation import card
from dftlib.perturbation.box_maps import BOXES, require_box


def _beside(path: Path) -> tuple[Path, Path]:
    """N's picture and card."""
    return path.with_suffix(".png"), path.with_suffix(".md")


def require_free(path: Path) -> Path:
    """`path`, where N, its picture and its card may be written.

    Raises `DataError` where it ends in .png or .md itself, or where a picture or card of that name is there and it isn't.
    """
    if (ending := path.suffix.lower()) in (".png", ".md"):
        what = "picture" if ending == ".png" else "card"
        raise DataError(f"{path} is where N's {what} goes: name a file that ends in .safetensors.")
    if not path.exists() and (others := [p for p in _beside(path) if p.exists()]):
        raise DataError(f"{others[0]} would be written over, and isn't of an N: give the perturbation another name.")
    return path


class Perturbation(nn.Module):
    """One N, float32 C x H x W, and the box map that adds it; `about` says how it came to be (JSON-able).

    A module without parameters whose one buffer is `n`: it stands where a transform or a layer may stand, such as in
    `torchvision.transforms.v2.Compose`, and `to` moves it. Raises `DataError` for an unknown box map or another shape of N.
    """

    n: Tensor

    def __init__(self, n: Tensor, box: str = "atanh", about: dict[str, Any] | None = None) -> None:
        super().__init__()
        require_box(box)
        if n.ndim != 3:
            raise DataError(f"A perturbation is C x H x W, not {tuple(n.shape)}.")
        self.register_buffer("n", n.detach().float())
        self.box, self.about = box, about or {}

    def extra_repr(self) -> str:
        return f"{' x '.join(map(str, self.n.shape))}, box={self.box!r}"

    def with_n(self, n: Tensor) -> "Perturbation":
        """A copy with another N."""
        return Perturbation(n, self.box, self.about)

    def with_about(self, about: dict[str, Any]) -> "Perturbation":
        """A copy with another `about`."""
        return Perturbation(self.n, self.box, about)

    def forward(self, images: Tensor) -> Tensor:
        """Z of images C x H x W or n x C x H x W, on their device and in their type: uint8, rounded, or float in [0, 1].

        Differentiable to float images. Raises `DataError` for other shapes and for floats outside [0, 1].
        """
        require_range(images)
        self._require_shape(images, (3, 4))
        z = self._z(to_float(images[None] if images.ndim == 3 else images, images.device))
        return _levels(z).view(images.shape) if images.dtype == torch.uint8 else z.to(images.dtype).view(images.shape)

    def apply(self, images: Pictures, device: torch.device | str | None = None) -> Tensor:  # type: ignore[override]
        """Z of images n x C x H x W (uint8, or float in [0, 1]): float32 in [0, 1], in batches.

        Computed, and returned, on `device`, or where the images are (arrays: on the CPU). Raises `DataError` as `forward`.
        """
        if callable(images):  # `nn.Module.apply` of a module around this one hands its function down
            return cast(Tensor, super().apply(cast(Callable[[nn.Module], None], images)))
        return self._batched(images, device, torch.float32)

    def apply_uint8(self, images: Pictures, device: torch.device | str | None = None) -> Tensor:
        """As `apply`, rounded to whole grey levels, uint8: what leaves the computer. Only a batch at a time is float."""
        return self._batched(images, device, torch.uint8)

    @torch.no_grad()
    def _batched(self, images: Pictures, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
        require_range(images)
        self._require_shape(images, (4,))
        device = torch.device(device or (images.device if isinstance(images, Tensor) else "cpu"))
        out = torch.empty(tuple(images.shape), dtype=dtype, device=device, memory_format=torch.channels_last)
        for batch, room in zip(batches(images, device), batches(out, device), strict=True):
            z = self._z(to_float(batch, device))
            cast(Tensor, room).copy_(_levels(z) if dtype == torch.uint8 else z)
        return out

    def _z(self, images: Tensor) -> Tensor:
        return BOXES[self.box](images, self.n.to(images.device, torch.float32))

    def _require_shape(self, images: Pictures, dimensions: tuple[int, ...]) -> None:
        if images.ndim not in dimensions or tuple(images.shape[-3:]) != tuple(self.n.shape):
            found, wanted = (" x ".join(map(str, shape)) for shape in (images.shape, self.n.shape))
            raise DataError(f"The perturbation is for images of {wanted} (n x C x H x W), not {found}: resize them.")

    def picture(self) -> Tensor:
        """N to look at: uint8 C x H x W on the CPU, mid-grey where N is zero, stretched to its largest absolute value."""
        n = self.n.float().cpu()
        return ((n / n.abs().max().clamp_min(1e-12) + 1) * 127.5).round().to(torch.uint8)

    def card(self) -> str:
        """What is known of it, as Markdown: what it was fitted on, for whom, what it does, and whether it is recommended."""
        return card.card(tuple(self.n.shape), self.box, self.about)

    def save(self, path: str | Path) -> None:
        """Writes `path` (safetensors) and, beside it, the picture (.png) and the card (.md); each whole or not at all.

        The PNG is grey where N has one channel; of two, or of more than three, each stands beside the other in grey.
        Raises `DataError` where `require_free` does.
        """
        path = require_free(Path(path))
        said = json.dumps({"box": self.box, "about": self.about}, sort_keys=True)
        shown = self.picture()
        shown = shown.permute(1, 2, 0) if len(shown) == 3 else shown.transpose(0, 1).flatten(1)
        with whole(path) as temporary:  # one key: several are written in any order
            save_file({"n": self.n.float().cpu().contiguous()}, temporary, {"perturbation": said})
        png, md = _beside(path)
        with whole(png) as temporary:
            Image.fromarray(shown.contiguous().numpy()).save(temporary)
        with whole(md) as temporary:
            temporary.write_text(self.card(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> "Perturbation":
        """Reads what `save` wrote; `DataError` for a file that is missing or something else. Runs no code from the file."""
        try:
            with safe_open(path, "pt") as file:
                meta, n = file.metadata() or {}, file.get_tensor("n")
            said = json.loads(meta["perturbation"])
            box, about = said["box"], said["about"]
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is not a saved perturbation ({error}): name a file that Perturbation.save wrote.") from None
        sound = n.dtype == torch.float32 and n.ndim == 3 and n.numel() and bool(n.isfinite().all())
        if not sound or not isinstance(box, str) or box not in BOXES or not isinstance(about, dict):
            raise DataError(f"{path} holds no valid perturbation: fit it again.")
        return Perturbation(n, box, about)


def into_cache(found: Perturbation, path: Path) -> None:
    """Saves into the cache, where a picture and a card alone are those of an N that was deleted as it was damaged."""
    for left in _beside(path):
        left.unlink(missing_ok=True)
    found.save(path)


def from_cache(path: Path) -> Perturbation:
    """Reads from the cache; raises `DataError` where the file is damaged."""
    try:
        return Perturbation.load(path)
    except DataError:
        raise DataError(f"{path} in the cache is damaged: delete that file and call again.") from None


def _levels(z: Tensor) -> Tensor:
    return (z * 255).round().to(torch.uint8)
