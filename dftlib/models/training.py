"""Training classifiers: NNET on features computed once, and a small network from scratch."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dftlib import seeds
from dftlib.images import Pictures, as_tensor, batches, to_float
from dftlib.models.backbones import AttributeNet, nnet
from dftlib.models.base import Backbone
from dftlib.progress import tqdm

BATCH = 256


@torch.inference_mode()
def features(body: Backbone, images: Pictures, device: torch.device) -> Tensor:
    """Features n x F of pictures n x 3 x H x W under a frozen backbone, float32 on the CPU."""
    body = body.eval().to(device)
    parts = list(batches(images, device))
    return torch.cat([body(to_float(part, device)).cpu() for part in tqdm(parts, desc="features", leave=False)])


def train_nnet(
    train: Tensor,
    labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    epochs: int = 20,
    learning_rate: float = 0.005,
    seed: int = 0,
    start: nn.Sequential | None = None,
    scale: Tensor | None = None,
) -> nn.Sequential:
    """NNET trained with Adam and cross-entropy on features n x F with labels n (int64); the best epoch on validation is kept.

    Features are divided by their deviation over the training set inside the first layer, so the head takes raw features.
    Model fine-tuning: training goes on from the head `start`, and `scale` are the features it was first trained on, whose
    mean and deviation it keeps (those of a few new pictures say little).
    """
    seeds.seed_all(seed)
    head = copy.deepcopy(start) if start else nnet(train.shape[1])
    scale = train if scale is None else scale
    mean, deviation = scale.mean(0), scale.std(0)
    # A feature that never moves in training (a dead ReLU) gets weight 0: divided by nearly nothing it would decide alone.
    dead = deviation <= 1e-6 * scale.abs().amax(0)
    deviation[dead] = torch.inf
    x, val_x = (train - mean) / deviation, (val - mean) / deviation
    first = head[0]
    assert isinstance(first, nn.Linear)
    if start:
        with torch.no_grad():
            first.bias.add_(first.weight @ mean)
            first.weight.mul_(deviation.where(~dead, 0))
    _descend(head, lambda rows: x[rows], labels, lambda: head(val_x).argmax(1), val_labels, epochs, learning_rate, seed)
    with torch.no_grad():
        first.weight.div_(deviation)
        first.bias.sub_(first.weight @ mean)
    return head


def train_network(
    net: AttributeNet,
    images: Pictures,
    labels: Tensor,
    val_images: Pictures,
    val_labels: Tensor,
    epochs: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    fresh: bool = True,
    dtype: torch.dtype = torch.float32,
) -> AttributeNet:
    """A whole network trained on pictures n x 3 x H x W (uint8), in place; the best epoch on validation is kept.

    From scratch, or, where `fresh` is false, from the weights it has (model fine-tuning of all layers). Pictures are mirrored
    at random, as every training on faces does. Weights stay float32; `dtype` is that of their products (autocast).
    """
    seeds.seed_all(seed)
    net.requires_grad_(True)
    for module in net.modules():
        if fresh and isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train, val = as_tensor(images).to(device), as_tensor(val_images).to(device)

    def mirrored(rows: Tensor) -> Tensor:
        x = to_float(train[rows], device)
        flip = torch.rand(len(x), generator=torch.Generator().manual_seed(int(rows[0]))).to(device) < 0.5
        return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)

    # Without its cache: that would keep the first step's weights for as long as the context lasts.
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        _descend(net, mirrored, labels.to(device), lambda: torch.cat([net(to_float(b, device)).argmax(1) for b in batches(val)]),
                 val_labels.to(device), epochs, learning_rate, seed)  # fmt: skip
    return net


def _descend(
    net: nn.Module,
    batch: Callable[[Tensor], Tensor],
    labels: Tensor,
    classify: Callable[[], Tensor],
    val_labels: Tensor,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Adam on cross-entropy over `batch(rows)`; leaves `net` as it was after the epoch with the best validation accuracy."""
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    best, kept = -1.0, copy.deepcopy(net.state_dict())
    for epoch in tqdm(range(epochs), desc="training", unit="epoch", leave=False):
        net.train()
        for rows in torch.from_numpy(seeds.rng(seed, epoch).permutation(len(labels))).split(BATCH):
            loss = F.cross_entropy(net(batch(rows)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        net.eval()
        with torch.inference_mode():
            accuracy = (classify() == val_labels).double().mean().item()
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    net.eval()
