"""How fast `flipping.flip` turns pictures one by one, beside three toolboxes with the same network and the same pictures.

    build/peers/bin/python tests/benchmarks/single.py    (`make bench` makes that environment)

The toolboxes stay in an environment of their own: only this comparison needs them. 'Line': the smallest whole epsilon, up to
`LIMIT` grey levels, at which the fast gradient sign turns a correctly classified picture. 'Steps': how many steps of one grey
level it takes, `flipping.STEPS` at most. A toolbox that has no such search of its own is led by `search`, which leaves out what
has flipped, as ours does. Each takes the batches that it is fastest with, and the memory layout that is faster.

Where the sizes differ, either ours has stepped over a first epsilon behind which the class turns back, or 1 less the higher
probability was 0 in float32 and the toolbox's cross-entropy has lost half of its gradient.
"""

import math
from collections.abc import Callable
from functools import partial

import foolbox  # type: ignore[import-not-found]
import numpy as np
import torch
import torchattacks  # type: ignore[import-not-found]
from art.attacks.evasion import FastGradientMethod  # type: ignore[import-not-found]
from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]
from throughput import flippable
from timing import Measured, best, run
from torch import Tensor, nn

from dftlib.datasets import synthetic
from dftlib.images import to_float
from dftlib.models.attribute_networks import Network, present
from dftlib.perturbation import per_image

SIZE, ATTRIBUTE, EPOCHS = 64, "Gender", 6
PICTURES = 256
LIMIT = 32  # a power of two, which our doubling steps on
BATCHES = (64, 256)  # of the toolboxes
REPEATS = 3

Attack = Callable[[Tensor, Tensor, int], Tensor]  # pictures of 0 to 255, their classes and epsilon -> pictures
Search = Callable[
    [int], Tensor
]  # size of a batch -> what each picture took, epsilon or steps; infinite where its class is still the same


class Scaled(nn.Module):
    """The network for pictures of 0 to `most`, in the faster layout: with 255 a toolbox can count in whole grey levels."""

    def __init__(self, net: Network, most: int) -> None:
        super().__init__()
        self.net, self.most = net, most

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net((pictures / self.most).contiguous(memory_format=torch.channels_last))


def trained(device: torch.device) -> tuple[Network, Tensor, Tensor]:
    """A network, pictures it wasn't trained on and classifies correctly, and their labels."""
    faces = synthetic.load("studio", SIZE, seed=0)
    y = torch.from_numpy(faces.labels[ATTRIBUTE].to_numpy().astype(np.float32)) * 2 - 1
    train, others = np.flatnonzero(faces.split == "train"), np.flatnonzero(faces.split != "train")
    net = flippable((faces.images[train], y[train]), (faces.images[others], y[others]), EPOCHS, device)
    images, labels = torch.from_numpy(faces.images[others]), y[others]
    with torch.inference_mode():
        right = present(net(to_float(images, device)), "softmax")[:, 0].cpu() == (labels > 0)
    return net, images[right][:PICTURES], labels[right][:PICTURES]


def floor(net: Network, images: Tensor, device: torch.device) -> None:
    """Nothing but the network, there and back to the pictures, as many at once as `flip` takes."""
    for part in images.split(per_image.BATCH if device.type == "cpu" else per_image.ON_GPU):
        x = to_float(part, device).requires_grad_()
        torch.autograd.grad(net(x).sum(), x)


def search(attack: Attack, net: nn.Module, pictures: Tensor, classes: Tensor, steps: bool, batch: int) -> Tensor:
    """Raises epsilon one by one, or takes one step after the other, for the pictures not flipped yet."""
    found = []
    for x, y in zip(pictures.split(batch), classes.split(batch), strict=True):
        size, left, z = torch.full((len(x),), torch.inf, device=x.device), torch.arange(len(x), device=x.device), x
        for trial in range(1, (per_image.STEPS if steps else LIMIT) + 1):
            z = attack(z, y[left], 1) if steps else attack(x[left], y[left], trial)
            with torch.no_grad():
                flipped = net(z.round()).argmax(1) != y[left]
            size[left[flipped]] = trial
            left, z = left[~flipped], z[~flipped]
            if not len(left):
                break
        found.append(size)
    return torch.cat(found).cpu()


def measure(device: torch.device) -> list[Measured]:
    net, images, labels = trained(device)
    per_image.LIMIT = LIMIT
    grey, pictures, classes = Scaled(net, 255).eval(), images.to(device).float(), (labels > 0).long().to(device)
    art = PyTorchClassifier(
        grey,
        nn.CrossEntropyLoss(),
        (3, SIZE, SIZE),
        2,
        clip_values=(0, 255),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    fool = foolbox.PyTorchModel(grey, bounds=(0, 255), device=device)
    fast, iterated = foolbox.attacks.LinfFastGradientAttack(), foolbox.attacks.LinfBasicIterativeAttack(
        abs_stepsize=1, steps=1, random_start=False
    )  # fmt: skip
    unit = Scaled(net, 1).eval()

    def ours(method: str, how: str) -> Tensor:
        return per_image.flip(net, images, labels, method.lower(), how, "softmax").size

    def by_art(x: Tensor, y: Tensor, epsilon: int) -> Tensor:
        made = FastGradientMethod(art, np.inf, eps=epsilon, batch_size=len(x)).generate(x.cpu().numpy(), y.cpu().numpy())
        return torch.from_numpy(made).to(device)

    def art_minimal(batch: int) -> Tensor:
        attack = FastGradientMethod(art, np.inf, eps=LIMIT, eps_step=1, batch_size=batch, minimal=True)
        made = torch.from_numpy(attack.generate(pictures.cpu().numpy(), classes.cpu().numpy())).to(device)
        with torch.no_grad():
            flipped = torch.cat([grey(part).argmax(1) for part in made.split(batch)]) != classes
        return torch.where(flipped, (made - pictures).abs().amax((1, 2, 3)), torch.inf).cpu()

    def by_torchattacks(x: Tensor, y: Tensor, epsilon: int) -> Tensor:
        return torchattacks.FGSM(unit, eps=epsilon / 255)(x / 255, y) * 255

    def steps_by_torchattacks(x: Tensor, y: Tensor, epsilon: int) -> Tensor:
        return torchattacks.BIM(unit, eps=epsilon / 255, alpha=1 / 255, steps=1)(x / 255, y) * 255

    def foolbox_epsilons(batch: int) -> Tensor:
        found = []
        for x, y in zip(pictures.split(batch), classes.split(batch), strict=True):
            flips = fast(fool, x, y, epsilons=range(1, LIMIT + 1))[2]
            found.append(torch.where(flips.any(0), flips.byte().argmax(0) + 1.0, torch.inf))
        return torch.cat(found).cpu()

    def led(attack: Attack, steps: bool = False) -> Search:
        return partial(search, attack, grey, pictures, classes, steps)

    toolboxes: dict[str, dict[str, Search]] = {
        "line": {
            "ART FGM, minimal": art_minimal,
            "torchattacks FGSM": led(by_torchattacks),
            "foolbox FGSM": led(lambda x, y, epsilon: fast.run(fool, x, y, epsilon=epsilon)),
            "foolbox FGSM, every epsilon": foolbox_epsilons,
        },
        "iterative": {
            "ART FGM": led(by_art, True),
            "torchattacks BIM": led(steps_by_torchattacks, True),
            "foolbox BIM": led(lambda x, y, epsilon: iterated.run(fool, x, y, epsilon=epsilon), True),
        },
    }
    found: list[Measured] = []
    for how, peers in toolboxes.items():
        benchmark, sizes = f"flip one by one, {how}", dict[str, Tensor]()

        def kept(name: str, work: Callable[[], Tensor], sizes: dict[str, Tensor] = sizes) -> None:
            sizes[name] = work()

        rows: dict[str, Callable[[], object]] = {"floor": partial(floor, net, images, device)}
        rows |= {(name := f"ours, {m}"): partial(kept, name, partial(ours, m, how)) for m in ("FGS", "FFA")}
        rows |= {
            f"{name} / {batch}": partial(kept, name, partial(work, batch)) for name, work in peers.items() for batch in BATCHES
        }
        ms = dict.fromkeys(("floor", "ours, FGS", "ours, FFA", *peers), math.inf)
        for key, seconds in best(rows, device, REPEATS).items():
            name = key.partition(" / ")[0]
            ms[name] = min(ms[name], 1000 * seconds / len(images))
        own, mine = ms["ours, FGS"], sizes["ours, FGS"]
        found += [Measured(benchmark, name, value, "ms", value / ms["floor"], "floor") for name, value in ms.items()]
        found += [Measured(benchmark, "ours, FGS", own, "ms", own / ms[name], name) for name in peers]
        found.append(Measured(benchmark, "ours, FGS: flipped", _percent(mine.isfinite()), "%"))
        found += [Measured(benchmark, f"{name}: sizes as ours", _percent(sizes[name] == mine), "%") for name in peers]
    return found


def _percent(which: Tensor) -> float:
    return 100 * which.double().mean().item()


if __name__ == "__main__":
    run(measure, __doc__ or "")
