"""VGG-Face (Parkhi et al. 2015), the paper's backbone, from its published weight file."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from dftlib._torchvision import models as tv
from dftlib.artefacts import whole
from dftlib.errors import DataError
from dftlib.models.base import Backbone

VGGFACE_MEAN = (129.186279296875, 104.76238250732422, 93.59396362304688)
VGGFACE_CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")


class VGGFace(Backbone):
    """VGG-16 of Parkhi et al. 2015 up to the ReLU of fc7: n x 3 x 224 x 224 in [0, 1] -> n x 4096.

    `weights` is the published file (keys conv1_1.weight … fc8.bias, 32 tensors), or holds its tensors as checkpoints do: within
    `state_dict`, as `module.conv1_1.weight`, in half precision, with any fc8 or none (it isn't used). Its own check sum was never
    published: names and shapes are checked always, and the SHA-256 of the first load is kept beside the file, where that folder
    may be written to, and compared from then on.
    """

    features = 4096
    size = 224

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(VGGFACE_MEAN).view(1, 3, 1, 1))
        with torch.device("meta"):
            self.net = tv.vgg16(weights=None)
        self.net.classifier = self.net.classifier[:5]
        self.net.load_state_dict(_vggface_state(Path(weights), self.net.state_dict()), assign=True)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net((images * 255 - self.mean).to(next(self.net.parameters()).dtype)))


def _vggface_state(path: Path, template: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under torchvision's names, float32; `DataError` for a missing, changed or foreign file."""
    remedy = f"name another file, or take this one away and call dft download vggface --to {path.parent}"
    if not path.is_file():
        raise DataError(
            f"The VGGFace weights {path} are missing: call dft download vggface --to FOLDER and set the parameter 'weights' to "
            "FOLDER/vgg_face_dag.pth."
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    pinned = path.with_name(path.name + ".sha256")
    if pinned.is_file() and pinned.read_text("utf-8").strip() != found:
        raise DataError(f"{path} changed since its first use: {remedy}, or delete {pinned.name} to accept the change.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.get("state_dict", loaded).items()}
        layers = [*(f"conv{c}" for c in VGGFACE_CONVS), "fc6", "fc7"]
        names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        state = {ours: loaded[name] for ours, name in zip(template, names, strict=True)}
    except Exception as error:  # torch's reader raises whatever a damaged file makes it stumble over, in many lines
        missing = f" (it has no {error.args[0]})" if isinstance(error, KeyError) and error.args else ""
        raise DataError(f"{path} is not a VGGFace weight file{missing}: {remedy}.") from None
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise DataError(f"{path} is not a VGGFace weight file ({name} is no tensor of floats): {remedy}.")
        if tensor.shape != template[name].shape:
            raise DataError(f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(template[name].shape)}: {remedy}.")
    if not pinned.is_file():
        with suppress(PermissionError), whole(pinned) as temporary:  # others' folder of weights: then nothing is compared
            temporary.write_text(found + "\n", "utf-8")
    return {name: tensor.float() for name, tensor in state.items()}
