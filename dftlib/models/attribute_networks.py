"""Networks for facial attributes: one an attribute, trained side by side, or one for all (MOON).

*Facial Attributes: Accuracy and Adversarial Robustness*, section 2. A network takes float images n x 3 x H x W in [0, 1] and
gives scores n x outputs. Trained with the Euclidean loss it has one output an attribute, near +1 where the attribute is
present and -1 where it is absent; trained with softmax it has two, the logits of absent and present.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.optim.lr_scheduler import LambdaLR

from dftlib import seeds
from dftlib._torchvision import models as tv
from dftlib.errors import DataError
from dftlib.images import Pictures, batches, to_float
from dftlib.progress import tqdm

WIDTHS, STRIDES = (3, 16, 32, 64, 64), (2, 2, 2, 1)
EARLY = 2  # epochs after which the paper takes its first snapshot; nothing counts as converged before
PATIENCE = 3  # epochs without a better validation error in any network of a group end its training
SMOOTHING = 0.9  # of the squared gradient; with Caffe's 0.99 the few steps of a small data set hardly learn
DECAY, POWER = 1e-3, 0.75  # rate x (1 + DECAY x step)^-POWER, Caffe's 'inv' policy and its usual power


def key() -> dict[str, object]:
    """The numbers of this module that decide what training finds, JSON-able."""
    shape = {"widths": WIDTHS, "strides": STRIDES}
    return {**shape, "early": EARLY, "patience": PATIENCE, "smoothing": SMOOTHING, "decay": DECAY, "power": POWER}


@contextmanager
def exactly() -> Iterator[None]:
    """float32 convolutions in float32 on a card too: its default, TF32, rounds scores by more than flips pass the boundary by."""
    cudnn: Any = torch.backends.cudnn
    where, name, full = (cudnn.conv, "fp32_precision", "ieee") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32", False)
    before = getattr(where, name)
    setattr(where, name, full)
    try:
        yield
    finally:
        setattr(where, name, before)


class ConvNets(nn.Module):
    """`count` small networks of one shape as one, by grouped convolutions: n x 3 x H x W in [0, 1] -> n x count x outputs.

    Four convolutions with batch normalisation halve the image three times; the last layer sees every place of it, as faces
    are aligned. Every parameter and buffer is a stack of `count` equal parts, one a network.
    """

    def __init__(self, count: int, outputs: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.count = count
        layers: list[nn.Module] = []
        for inputs, width, stride in zip(WIDTHS, WIDTHS[1:], STRIDES, strict=False):
            groups = count if layers else 1  # the image is the same for all
            layers += [nn.Conv2d(groups * inputs, count * width, 3, stride, 1, groups=groups, bias=False)]
            layers += [nn.BatchNorm2d(count * width), nn.ReLU()]
        left = (-(-shape[0] // 8), -(-shape[1] // 8))
        self.net = nn.Sequential(*layers, nn.Conv2d(count * WIDTHS[-1], count * outputs, left, groups=count))

    def forward(self, images: Tensor) -> Tensor:
        answers = self.net(((images - 0.5) * 4).to(next(self.parameters()).dtype))
        return cast(Tensor, answers.view(len(images), self.count, -1))


class Vgg16(nn.Module):
    """VGG-16 for images of any size from 32 x 32, as the paper's for 178 x 218: n x 3 x H x W in [0, 1] -> n x 1 x outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.net = tv.vgg16(weights=None, num_classes=outputs)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net(((images - 0.5) * 4).to(next(self.parameters()).dtype)))[:, None]


class Network(nn.Module):
    """One trained network, frozen, for images n x 3 x H x W in [0, 1] -> scores n x outputs; no batch normalisation is left."""

    def __init__(self, nets: ConvNets | Vgg16) -> None:
        super().__init__()
        nets = copy.deepcopy(nets).eval().requires_grad_(False)
        if isinstance(nets, ConvNets):
            *layers, head = nets.net.children()
            pairs = zip(cast(list[nn.Conv2d], layers[::3]), cast(list[nn.BatchNorm2d], layers[1::3]), strict=True)
            fused = [layer for conv, norm in pairs for layer in (fuse_conv_bn_eval(conv, norm), nn.ReLU())]
            nets.net = nn.Sequential(*fused, head)
        self.nets = nets

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.nets(images))[:, 0]


def present(scores: Tensor, loss: str) -> Tensor:
    """The classification, equation 2: scores n x … x outputs -> bool n x … x attributes."""
    return scores[..., 1:] > scores[..., :1] if loss == "softmax" else scores > 0


def losses(scores: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Equations 1 and 4: scores … x outputs and labels … x attributes (-1 or +1) -> the loss of each label."""
    if loss == "euclidean":
        return (scores - labels).square()
    return F.softplus((scores[..., :1] - scores[..., 1:]) * labels)  # cross-entropy of two logits


def balance(labels: Tensor) -> Tensor:
    """Weights of n x attributes labels (-1 or +1) by which present and absent count the same (MOON, Rudd et al. 2016, section 3).

    With a target of one half present, the rarer class keeps weight 1 and the other is weighted down.
    """
    share = (labels > 0).double().mean(0)
    weights = torch.where(labels > 0, (1 - share) / share, share / (1 - share))
    return weights.clamp(max=1).float()


def train(
    nets: ConvNets | Vgg16,
    images: Pictures,
    labels: Tensor,
    val_images: Pictures,
    val_labels: Tensor,
    loss: str,
    epochs: int,
    learning_rate: float,
    batch: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Trains `count` networks on the same images with RMSProp and inverse decay; section 2.3, without augmentation.

    images uint8 n x 3 x H x W; labels (-1 or +1) and `weights` n x count x attributes. Returns `two_epochs.I.NAME` and
    `converged.I.NAME`, the weights of network I after two epochs and after that one of the second and all later epochs with its
    lowest validation error, and `errors`, epochs x count. `dtype` is that of the products (autocast).
    """
    if epochs < EARLY:
        raise DataError(f"Parameter 'attribute_epochs' is {epochs}: set it to {EARLY}, the paper's first snapshot, or more.")
    nets = nets.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, val = torch.as_tensor(images).to(device), torch.as_tensor(val_images).to(device)
    y, val_present = labels.to(device), val_labels.to(device) > 0
    scale = torch.ones_like(y) if weights is None else weights.to(device)
    optimiser = torch.optim.RMSprop(nets.parameters(), lr=learning_rate, alpha=SMOOTHING)
    schedule = LambdaLR(optimiser, lambda step: (1 + DECAY * step) ** -POWER)
    kept: dict[str, Tensor] = {}
    errors: list[Tensor] = []

    def scores(part: Pictures) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            found = cast(Tensor, nets(to_float(part, device)))
        return found.to(torch.promote_types(found.dtype, torch.float32))

    for epoch in tqdm(range(epochs), desc="training", unit="epoch", leave=False):
        nets.train()
        order = torch.from_numpy(seeds.rng(seed, epoch).permutation(len(x))).to(device)
        for rows in tqdm(order.split(batch), desc=f"epoch {epoch + 1}", unit="step", leave=False):
            objective = (scale[rows] * losses(scores(x[rows]), y[rows], loss)).mean(0).sum()
            optimiser.zero_grad()
            objective.backward()
            optimiser.step()
            schedule.step()
        nets.eval()
        with torch.inference_mode():
            answers = torch.cat([present(scores(part), loss) for part in batches(val)])
        errors.append((answers != val_present).double().mean((0, 2)).cpu())
        since = epoch + 1 - EARLY
        if since == 0:
            kept |= _parts(nets, "two_epochs", range(len(errors[0])))
        if since >= 0:
            best = torch.stack(errors[EARLY - 1 :]).min(0).indices.tolist()
            kept |= _parts(nets, "converged", [i for i, at in enumerate(best) if at == since])
            if since - max(best) >= PATIENCE:
                break
    return kept | {"errors": torch.stack(errors)}


def _parts(nets: ConvNets | Vgg16, snapshot: str, which: range | list[int]) -> dict[str, Tensor]:
    """Every tensor of the networks named, cut out of the stack of all."""
    count = nets.count if isinstance(nets, ConvNets) else 1
    state = nets.state_dict().items()
    return {
        f"{snapshot}.{i}.{name}": (t.chunk(count)[i] if t.ndim else t).detach().cpu().clone() for name, t in state for i in which
    }


def network(nets: ConvNets | Vgg16, trained: Mapping[str, Tensor], snapshot: str, i: int) -> Network:
    """Network `i` of what `train` returned, in `nets`, a stack of one."""
    prefix = f"{snapshot}.{i}."
    nets.load_state_dict({name.removeprefix(prefix): t for name, t in trained.items() if name.startswith(prefix)})
    return Network(nets)
