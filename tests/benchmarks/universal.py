"""How long it takes to find one perturbation that raises a frozen classifier's accuracy, beside other ways to find one.

    build/peers/bin/python tests/benchmarks/universal.py    (`make bench` makes that environment)

A cell of the demonstration with much to gain: Gender on drawn webcam pictures, by the network trained on press pictures. Ours
is a whole fit with the demonstration's settings, its rounds of validation included, and the shortest whole fit that comes as
far. The others learn from the same pictures under the same limit on the distortion, and stop as soon as they are within half a
point of our mean accuracy on the pictures of all people that nobody learned from, or have taken `CAP` times our time. They are
judged whenever their code could hand N back, after each pass; the clock stands still meanwhile. That favours them: no user
knows when to stop. Everyone has the same `SEEDS`; times are medians over them.

ART: the Adversarial Robustness Toolbox's targeted universal perturbation, the true labels its targets, and its universal
perturbation, which moves pictures away from the wrong class. Both take one picture after the other: there is no batch to choose.
FGSM by the euclidean norm in steps of 1/16 of the limit did best; tried too were 1/8 to 1, the maximum norm, PGD and DeepFool.
Visual prompting: N added and trained as Bahng et al. 2022 publish it, by momentum SGD on the cross-entropy in float32, the
default memory layout, and the network's weights not frozen. The public library ulib has the same loop (USGD) over those pictures
alone that aren't right yet. SGA (Liu et al. 2023): batches of 250, from each a sign step along the sum of the gradients of parts
of 10, taken at an N that the parts move on the way; `VISITS` of every picture in all. Neither of the two knows a limit on the
distortion, so N is scaled down to ours.
"""

import contextlib
import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks.evasion import TargetedUniversalPerturbation, UniversalPerturbation  # type: ignore[import-not-found]
from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]
from numpy.typing import NDArray
from timing import Measured, run, seconds
from torch import Tensor, nn

from dftlib.classifiers.base import TorchClassifier
from dftlib.experiments.lab import Lab, settings_of
from dftlib.experiments.outcome import Cell
from dftlib.experiments.profile import load_profile
from dftlib.images import to_float
from dftlib.metrics.similarity import psnr
from dftlib.perturbation.gradient import Settings, fit
from dftlib.perturbation.perturbation import Perturbation

Ends = tuple[float, float, float]
CELL = Cell(5, "Gender", "webcam", "press", "subject", 0)
CAP = 4  # times our time
SEEDS = range(5)
BATCH, EPOCHS, RATE = 50, 4, 0.1  # of visual prompting, which is fastest with them
VISITS, LARGE, SMALL, INNER = 80, 250, 10, 4  # of SGA: each batch's pictures are visited INNER times in one step


class Done(Exception):  # noqa: N818
    """A contestant is there, or out of time."""


class Judge:
    """The clock of a contestant, which stands still while its N is judged."""

    def __init__(self, held: Callable[[Perturbation], tuple[float, float]], target: float, cap: float) -> None:
        self.held, self.target, self.cap = held, target, cap
        self.seconds, self.accuracy, self.psnr = 0.0, 0.0, math.inf
        self.since = time.perf_counter()

    def __call__(self, n: Tensor) -> None:
        found = Perturbation(n.detach().float().cpu(), "clip")  # waits for the device
        self.seconds += time.perf_counter() - self.since
        accuracy, decibels = self.held(found)
        if accuracy > self.accuracy:
            self.accuracy, self.psnr = accuracy, decibels
        if self.there or self.seconds >= self.cap:
            raise Done
        self.since = time.perf_counter()

    @property
    def there(self) -> bool:
        return self.accuracy >= self.target


class Watched(PyTorchClassifier):  # type: ignore[misc]
    """The toolbox's classifier, which shows what it has found when it's asked for all pictures at once: after each pass."""

    x: NDArray[np.float32]
    judge: Judge

    def predict(self, x: NDArray[np.float32], *args: Any, **options: Any) -> NDArray[np.float32]:
        if len(x) > 1:
            moved = x - self.x  # by N, where a picture has room for it
            up, down = moved.max(0), moved.min(0)
            self.judge(torch.from_numpy(np.where(up > -down, up, down)))
        answer: NDArray[np.float32] = super().predict(x, *args, **options)
        return answer


def art(net: nn.Module, x: Tensor, y: Tensor, decibels: float, targeted: bool, judge: Judge, seed: int) -> None:
    limit = 10 ** (-decibels / 20) * math.sqrt(x[0].numel())
    model = Watched(
        net, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 2, clip_values=(0, 1), device_type="gpu" if x.is_cuda else "cpu"
    )
    model.x, model.judge = np.ascontiguousarray(x.cpu().numpy()), judge
    shared: dict[str, Any] = {"attacker": "fgsm", "delta": 1e-9, "max_iter": 10**6, "eps": limit, "norm": 2}
    step = {"eps": limit / 16, "norm": 2}
    random.seed(seed)
    if targeted:
        attack = TargetedUniversalPerturbation(model, attacker_params={**step, "targeted": True}, **shared)
        attack.generate(model.x, np.eye(2, dtype=np.float32)[y.cpu().numpy()])
    else:
        attack = UniversalPerturbation(model, attacker_params=step, verbose=False, **shared)
        attack.generate(model.x, 1 - y.cpu().numpy())


def prompted(net: nn.Module, x: Tensor, y: Tensor, decibels: float, judge: Judge, seed: int) -> None:
    n = nn.Parameter(torch.zeros_like(x[0]))
    optimiser = torch.optim.SGD([n], RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * math.ceil(len(x) / BATCH))
    draw = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(x), generator=draw).to(x.device).split(BATCH):
            loss = F.cross_entropy(net(x[rows] + n), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                n.div_((n.square().mean() * 10 ** (decibels / 10)).sqrt().clamp_min(1))
        judge(n)


def aggregated(net: nn.Module, x: Tensor, y: Tensor, decibels: float, judge: Judge, seed: int) -> None:
    limit, draw = 10 ** (-decibels / 20), torch.Generator().manual_seed(seed)
    n, step = torch.zeros_like(x[:1]), limit / 8
    for _ in range(VISITS // INNER):
        for batch in torch.randperm(len(x), generator=draw).split(LARGE):
            moved, total = n.clone(), torch.zeros_like(n)
            for _ in range(INNER):
                for rows in batch[torch.randperm(len(batch), generator=draw)].to(x.device).split(SMALL):
                    moved.requires_grad_()
                    (slope,) = torch.autograd.grad(F.cross_entropy(net(x[rows] + moved), y[rows]), moved)
                    moved, total = (moved.detach() - step * slope.sign()).clamp_(-limit, limit), total + slope
            n = (n - step * total.sign()).clamp_(-limit, limit)
            n /= (n.square().mean() * 10 ** (decibels / 10)).sqrt().clamp_min(1)
        judge(n[0])
    raise Done


def measure(device: torch.device) -> list[Measured]:
    lab = Lab(load_profile("demo", device=str(device)))
    faces, settings, model = lab.faces(CELL.data, CELL.protocol), settings_of(lab.profile), lab.model(CELL)
    plain = TorchClassifier(model.net, device, torch.float32)
    learned, val, _ = lab.splits(CELL)
    every, others = torch.from_numpy(faces.labels[CELL.attribute].to_numpy().astype(np.int64)), faces.split != "train"

    def held(n: Perturbation) -> tuple[float, float]:
        """Percent right, and decibels left, of pictures that nobody has learned from."""
        changed = n.apply(faces.images[others])
        right = model.scores(changed).argmax(1) == every[others]
        return 100 * right.double().mean().item(), psnr(to_float(faces.images[others], changed.device), changed).mean().item()

    def ours(model: TorchClassifier, settings: Settings, over: Sequence[int] = SEEDS) -> Ends:
        """Seconds (a median), accuracy and decibels (means) of whole fits."""
        pictures, ends = (learned.images, learned.labels, val.images, val.labels), []
        fit(model, *pictures, replace(settings, steps=1))  # warms up
        for seed in over:
            found: list[Perturbation] = []
            took = seconds(lambda seed=seed, found=found: found.append(fit(model, *pictures, settings, seed)), device)  # type: ignore[misc]
            ends.append((took, *held(found[0])))
        return _typical(ends)

    x, y, decibels = to_float(learned.images, device), learned.labels.to(device), settings.min_psnr
    own = f"ours, {str(model.dtype).removeprefix('torch.')}"
    ends = {own: ours(model, settings)}
    if model.dtype != torch.float32:
        ends["ours, float32"] = ours(plain, settings)
    first, limit, _ = ends[own]
    for quarter in (1, 2, 3):  # as the others are, ours is told when it is there
        few = replace(settings, steps=quarter * settings.steps // 4)
        shorter = f"{own}, {quarter} of 4 quarters"
        ends[shorter] = ours(model, few)
        if ends[shorter][1] >= limit - 0.5:
            own = shorter
            break
    long = replace(settings, steps=VISITS * len(learned) // settings.batch_size, learning_rate=Settings.learning_rate)
    ends[f"ours, {VISITS} visits"] = ours(model, long, SEEDS[:1])
    thawed = copy.deepcopy(model.net).to(memory_format=torch.contiguous_format).requires_grad_(True)  # type: ignore[call-overload]
    contestants: dict[str, Callable[[Judge, int], None]] = {
        "ART, targeted": lambda judge, seed: art(model.net, x, y, decibels, True, judge, seed),
        "ART, universal": lambda judge, seed: art(model.net, x, y, decibels, False, judge, seed),
        "visual prompting": lambda judge, seed: prompted(thawed, x.contiguous(), y, decibels, judge, seed),
        "SGA": lambda judge, seed: aggregated(model.net, x, y, decibels, judge, seed),
    }
    threads, there = torch.get_num_threads(), {}
    for name, work in contestants.items():
        torch.set_num_threads(1 if name.startswith("ART") else threads)  # it is faster so, with one picture at a time
        judges = []
        for seed in SEEDS:
            judges.append(judge := Judge(held, limit - 0.5, CAP * first))
            with contextlib.suppress(Done):
                work(judge, seed)
        found = sum(judge.there for judge in judges)
        often = 2 * found > len(judges)
        name += "" if often else ", not there yet"
        ends[name] = _typical([(judge.seconds, judge.accuracy, judge.psnr) for judge in judges])
        there[name] = found
    torch.set_num_threads(threads)
    benchmark, before = "one perturbation", held(Perturbation(torch.zeros(x.shape[1:])))[0]
    rows = [Measured(benchmark, name, took, "s") for name, (took, _, _) in ends.items()]
    rows += [
        Measured(benchmark, own, ends[own][0], "s", ends[own][0] / took, name, 1 if name in there else math.nan)
        for name, (took, _, _) in ends.items()
        if name != own
    ]
    rows.append(Measured(benchmark, "before: right", before, "%"))
    rows += [Measured(benchmark, f"{name}: right", right, "%") for name, (_, right, _) in ends.items()]
    rows += [Measured(benchmark, f"{name}: PSNR", noise, "dB") for name, (_, _, noise) in ends.items()]
    rows += [Measured(benchmark, f"{name}: there", found, f"of {len(SEEDS)} seeds") for name, found in there.items()]
    return rows


def _typical(ends: list[tuple[float, float, float]]) -> Ends:
    took, right, noise = zip(*ends, strict=True)
    return float(np.median(took)), float(np.mean(right)), float(np.mean(noise))


if __name__ == "__main__":
    run(measure, __doc__ or "")
