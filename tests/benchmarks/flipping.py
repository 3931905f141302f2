"""How fast `flipping.flip` line-searches beside the Adversarial Robustness Toolbox, which raises epsilon step by step.

    python -m venv ../peers
    ../peers/bin/pip install -e . adversarial-robustness-toolbox==1.20.1
    ../peers/bin/python tests/benchmarks/flipping.py [--pictures 512] [--repeats 4] [--epochs 6] [--limit 64] [--attribute Gender]

The toolbox stays in an environment of its own: only this comparison needs it. Both look for the smallest whole epsilon, up to
`limit` grey levels, at which the fast gradient sign of the same network turns a correctly classified picture; the toolbox
in batches of several sizes, of which 32 is its default. Every row is measured once a round, and the best of all rounds counts:
other work on the machine slows all rows alike.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod  # type: ignore[import-not-found]
from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]
from numpy.typing import NDArray
from timing import seconds
from torch import Tensor, nn
from tqdm import tqdm

from dftlib import attributes, config, flipping
from dftlib.attributes import ConvNets, Network, present
from dftlib.classifiers import batches, to_float
from dftlib.config import load_profile
from dftlib.datasets import ATTRIBUTES, synthetic

SIZE = 64
METHODS = ("FGS", "FFA")
BATCHES = (256, 64, 32)  # of the toolbox
# Above this distance of the logits, 1 less the higher probability is 0 in float32: half of the gradient of the toolbox's
# cross-entropy is lost, and with it the sign of every tenth value.
ROUNDED = 24 * math.log(2)


class GreyLevels(nn.Module):
    """The network for pictures of 0 to 255, in which the toolbox can count epsilon in whole grey levels."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net((pictures / 255).contiguous(memory_format=torch.channels_last))  # the faster layout, as ours


def trained(attribute: str, epochs: int, pictures: int, device: torch.device) -> tuple[Network, Tensor, Tensor]:
    """A network for `attribute`, pictures it wasn't trained on and classifies correctly, and their labels."""
    faces = synthetic.load("studio", SIZE, seed=0)
    y = torch.from_numpy(faces.labels[attribute].to_numpy().astype(np.float32)) * 2 - 1
    train, others = np.flatnonzero(faces.split == "train"), np.flatnonzero(faces.split != "train")
    config.seed_all(0)
    found = attributes.train(
        ConvNets(1, 2, (SIZE, SIZE)), faces.images[train], y[train, None, None], faces.images[others], y[others, None, None],
        "softmax", epochs, 1e-3, 64, 0, device,
    )  # fmt: skip
    net = attributes.network(ConvNets(1, 2, (SIZE, SIZE)), found, "converged", 0)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = torch.from_numpy(faces.images[others]), y[others]
    with torch.inference_mode():
        right = present(net(to_float(images, device)), "softmax")[:, 0].cpu() == (labels > 0)
    return net, images[right][:pictures], labels[right][:pictures]


def floor(net: Network, images: Tensor, device: torch.device) -> None:
    """Nothing but the network, there and back to the pictures, as many at once as `flip` takes."""
    for part in batches(images, flipping.BATCH if device.type == "cpu" else len(images)):
        x = to_float(part, device).requires_grad_()
        torch.autograd.grad(net(x).sum(), x)


def counted(net: Network, work: Callable[[], Any]) -> tuple[Any, Counter[str]]:
    """What `work` returns, and how many pictures the network answered and led gradients back to."""
    rows: Counter[str] = Counter()

    def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows["answers"] += len(inputs[0])
        if output.requires_grad:
            output.register_hook(lambda gradient: rows.update(gradients=len(gradient)))

    hook = net.register_forward_hook(forward)
    try:
        return work(), rows
    finally:
        hook.remove()


def smallest(net: Network, images: Tensor, adversarial: NDArray[np.float32], device: torch.device) -> Tensor:
    """Epsilon of each of the toolbox's pictures; infinite where the class is still the same, at its last trial."""
    changed = torch.from_numpy(adversarial)
    with torch.inference_mode():
        before, after = (present(net(to_float(x, device)), "softmax")[:, 0].cpu() for x in (images, changed / 255))
    return torch.where(before != after, (changed - images).abs().amax((1, 2, 3)), torch.inf)


def scanned(net: Network, images: Tensor, labels: Tensor, limit: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Epsilons 1 to `limit` one by one along our direction: the first that flips (infinite: none), how often the class changes
    on the way, and how far apart the logits are before."""
    x, y = to_float(images, device) * 255, labels.to(device)
    attack = flipping._Attack(net, y, "fgs", "softmax", 0)
    rows = torch.arange(len(x), device=device)
    direction, _ = attack.direction(x, rows)
    flips = torch.stack([attack.flips((x + size * direction).clamp(0, 255).round(), rows) for size in range(1, limit + 1)])
    first = torch.where(flips.any(0), flips.byte().argmax(0) + 1.0, torch.inf)
    turns = (flips[1:] != flips[:-1]).sum(0) + flips[0].long()
    with torch.inference_mode():
        gap = net(to_float(images, device)).diff(dim=1).abs()[:, 0]
    return first.cpu(), turns.cpu(), gap.cpu()


def main() -> None:
    options = argparse.ArgumentParser()
    for option, default in (("--pictures", 512), ("--repeats", 4), ("--epochs", 6), ("--limit", 64)):
        options.add_argument(option, type=int, default=default)
    options.add_argument("--attribute", default="Gender", choices=ATTRIBUTES)
    given = options.parse_args()
    if given.limit < 1 or given.limit & (given.limit - 1):
        options.error("--limit must be a power of two, which our doubling steps on.")
    device = config.device_of(load_profile("demo"))
    net, images, labels = trained(given.attribute, given.epochs, given.pictures, device)
    flipping.LIMIT = given.limit
    peer = PyTorchClassifier(
        GreyLevels(net), nn.CrossEntropyLoss(), (3, SIZE, SIZE), 2, clip_values=(0, 255),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )  # fmt: skip
    x, classes = images.numpy().astype(np.float32), (labels > 0).long().numpy()

    def ours(method: str) -> flipping.Flips:
        return flipping.flip(net, images, labels, method.lower(), "line", "softmax")

    def theirs(batch: int) -> NDArray[np.float32]:
        attack = FastGradientMethod(peer, np.inf, eps=given.limit, eps_step=1, batch_size=batch, minimal=True)
        made: NDArray[np.float32] = attack.generate(x, classes)
        return made

    rows: dict[str, Callable[[], Any]] = {
        "floor": lambda: floor(net, images, device),
        **{f"ours, {method}": partial(ours, method) for method in METHODS},
        **{f"ART, batches of {batch}": partial(theirs, batch) for batch in BATCHES},
    }
    answers, spent = {}, {}
    for name, work in rows.items():  # warms up, too
        answers[name], spent[name] = counted(net, work)
    best = dict.fromkeys(rows, math.inf)
    for _ in tqdm(range(given.repeats), desc="rounds", disable=None):
        best = {name: min(best[name], seconds(work, device)) for name, work in rows.items()}

    n = len(images)
    print(f"{given.attribute}, {n} pictures of {SIZE} x {SIZE}, epsilon up to {given.limit}")
    print(f"{device}, {torch.get_num_threads()} threads")
    print(f"{'per picture':<24}{'ms':>9}{'floors':>9}{'answers':>9}{'gradients':>11}{'ART/FGS':>9}{'ART/FFA':>9}")
    for name, value in best.items():
        ratios = "".join(f"{value / best[f'ours, {m}']:9.2f}" for m in METHODS) if name.startswith("ART") else ""
        used = f"{spent[name]['answers'] / n:9.2f}{spent[name]['gradients'] / n:11.2f}"
        print(f"{name:<24}{1000 * value / n:9.3f}{value / best['floor']:9.2f}{used}{ratios}")

    for method in METHODS:
        size = answers[f"ours, {method}"].size
        print(f"{method}: flipped {_share(size.isfinite())}, median size {size.median():g} grey levels")
    fgs = answers["ours, FGS"].size
    first, turns, gap = scanned(net, images, labels, given.limit, device)
    print(f"FGS: first epsilon found {_share(fgs == first)}, class changes more than once on the way {_share(turns > 1)}")
    for batch in BATCHES:
        art = smallest(net, images, answers[f"ART, batches of {batch}"], device)
        print(f"ART, batches of {batch}: flipped {_share(art.isfinite())}, epsilon as our FGS {_share(art == fgs)}")
    for i in (art != fgs).nonzero()[:, 0].tolist():
        why = "ours stepped over the first" if fgs[i] > first[i] else "theirs is rounded" if gap[i] > ROUNDED else "cause unknown"
        print(f"  picture {i}: ART {art[i]:g}, ours {fgs[i]:g}, first along ours {first[i]:g}, logits {gap[i]:.1f} apart: {why}")


def _share(which: Tensor) -> str:
    return f"{100 * which.double().mean().item():.1f} %"


if __name__ == "__main__":
    main()
