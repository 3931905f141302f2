"""One perturbation N for a whole data set, fitted by gradients (Data Fine-tuning, equations 4 to 12)."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dftlib import seeds
from dftlib.artefacts import whole
from dftlib.classifiers.base import TorchClassifier
from dftlib.datasets.base import Labels, class_indices, require_known, warn_of_absent
from dftlib.errors import DataError
from dftlib.images import Pictures, batches, require_range, to_float
from dftlib.perturbation import card
from dftlib.perturbation.box_maps import BOXES, BoxMap, require_box
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm

POOL = 512  # fitting images on which the limit on the distortion is measured
PROBED = 10  # steps from one measurement of it to the next
MARGINS = 250  # fitting images whose margins set the temperature
ROUNDS = 4  # into which `Settings.steps` are divided


@dataclass(frozen=True)
class Settings:
    """How a perturbation is fitted; the defaults are what we recommend. Raises `DataError` for values that make no sense."""

    box: str = "atanh"
    distance: str = "mean"
    weight: float = 1.0
    min_psnr: float = 28.5  # decibels that N must leave on average; 0: no limit
    temperature: float = 0.0  # T of the loss, which is on logits / T; 0: 0.7 x the median margin of the logits at the start
    balance: bool = False  # weigh fitting images so that every class counts the same
    optimiser: str = "steepest"
    mirror: bool = True  # flip each fitting image horizontally with probability 1/2, anew at every batch
    learning_rate: float = 0.005
    batch_size: int = 25
    inner_steps: int = 1  # optimiser steps on one batch before the next is drawn
    steps: int = 480  # optimiser steps, in `ROUNDS` rounds; 0: `epochs` rounds, each of all batches of the fitting images
    epochs: int = 8
    patience: int = 8  # rounds without a better validation accuracy before the fit stops

    @classmethod
    def paper(cls, **changes: Any) -> "Settings":
        """The paper's ('Perturbation Learning'), where it names them, with `changes`."""
        printed = {
            "min_psnr": 0.0, "temperature": 1.0, "optimiser": "adam", "mirror": False, "learning_rate": 0.001,
            "batch_size": 800, "inner_steps": 16, "steps": 0, "epochs": 5, "patience": 5,
        }  # fmt: skip
        return cls(**{**printed, **changes})

    def __post_init__(self) -> None:
        require_box(self.box)
        least = {"batch_size": 1, "inner_steps": 1, "epochs": 1, "patience": 1, "steps": 0}
        for name, lowest in least.items():
            if (value := getattr(self, name)) < lowest:
                raise DataError(f"Parameter '{name}' must be {lowest} or more, not {value}.")
        for name in ("weight", "min_psnr", "learning_rate", "temperature"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise DataError(f"Parameter '{name}' must be a number, 0 or more, not {value}.")
        for name, known in (("distance", ("mean", "sum")), ("optimiser", ("adam", "steepest"))):
            if (value := getattr(self, name)) not in known:
                raise DataError(f"There is no {name} '{value}': choose {' or '.join(map(repr, known))}.")
        if self.min_psnr and self.box == "printed":
            raise DataError("The box map 'printed' changes pictures at N = 0 already: set min_psnr to 0, or another box map.")

    def schedule(self, pictures: int) -> tuple[int, int]:
        """Rounds, and draws of a batch in each (every draw takes `inner_steps` steps), for so many fitting images."""
        if not self.steps:
            return self.epochs, -(-pictures // self.batch_size)
        rounds = min(ROUNDS, max(1, self.steps // self.inner_steps))
        return rounds, max(1, round(self.steps / (rounds * self.inner_steps)))


def key(settings: Settings) -> dict[str, object]:
    """All numbers that decide what a fit finds, JSON-able."""
    return {**asdict(settings), "pool": POOL, "probed": PROBED, "margins": MARGINS, "rounds": ROUNDS}


def objective(
    logits: Tensor, labels: Tensor, images: Tensor, z: Tensor, settings: Settings, weights: Tensor | None = None
) -> Tensor:
    """Equations 11 and 12: mean over images of max(0, 1 - y·P) + weight x distance, a scalar.

    logits n x classes (already divided by the temperature), labels n (int64), images and z n x 3 x H x W, weights n. `distance`
    is the squared Frobenius norm of X - Z, summed over an image's pixels ('sum', as printed) or averaged ('mean').
    """
    wrong = F.relu(1 - logits.softmax(1).gather(1, labels[:, None])[:, 0])
    squared = F.mse_loss(z, images) * (images[0].numel() if settings.distance == "sum" else 1)
    return (wrong if weights is None else weights * wrong).mean() + settings.weight * squared


def margin(logits: Tensor) -> float:
    """Median distance of the two highest of logits n x classes: how sure a classifier is, either way."""
    highest = logits.float().topk(2, dim=1).values
    return float((highest[:, 0] - highest[:, 1]).median())


class Steepest(torch.optim.Optimizer):
    """Steepest descent with momentum 0.9: every step has a root mean square of `lr`, along the averaged gradient.

    Under a limit on the squared distance this spends the distance where it lowers the loss most. Adam moves every pixel
    equally far, whether its gradient is signal or noise.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if "mean" not in self.state[p]:
                    self.state[p]["mean"] = torch.zeros_like(p)
                mean = self.state[p]["mean"].lerp_(p.grad, 0.1)
                p -= group["lr"] * mean / mean.square().mean().sqrt().clamp_min(1e-20)


def _optimiser(n: Tensor, settings: Settings, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Adam at a constant rate, or steepest descent whose rate falls to zero over `steps` as a cosine."""
    if settings.optimiser == "adam":
        return (adam := torch.optim.Adam([n], lr=settings.learning_rate)), LambdaLR(adam, lambda _: 1.0)
    steepest = Steepest([n], settings.learning_rate)
    return steepest, LambdaLR(steepest, lambda step: 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))


class Group:
    """The processes that share a fit, as torch.distributed started them; of one alone nothing is sent."""

    def __init__(self) -> None:
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.own = slice(self.rank, None, self.size)  # which images of a batch, of the pool and of validation are this process's

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor


Recorded = tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]  # with what it reads and writes


class Graphed:
    """A function of tensors on a GPU, recorded once for each shape of its arguments and then replayed as one CUDA graph.

    A small network's step is hundreds of kernels, which Python starts more slowly than a GPU works. The next call overwrites
    what is returned. A function that can't be recorded (it looks at values on the way) is called as it is.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.recorded = function, dict[tuple[torch.Size, ...], Recorded | None]()

    def __call__(self, *given: Tensor) -> Tensor:
        shapes = tuple(tensor.shape for tensor in given)
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record([tensor.clone() for tensor in given])
        if not (known := self.recorded[shapes]):
            return self.function(*given)
        graph, inputs, found = known
        for held, tensor in zip(inputs, given, strict=True):
            held.copy_(tensor)
        graph.replay()
        return found

    def _record(self, inputs: list[Tensor]) -> Recorded | None:
        main, side = torch.cuda.current_stream(inputs[0].device), torch.cuda.Stream(inputs[0].device)
        side.wait_stream(main)
        with torch.cuda.stream(side):  # cuDNN chooses its algorithms here, which it can't while it is recorded
            for _ in range(3):
                self.function(*inputs)
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side):  # by default that of the current GPU, which may be another
                return graph, inputs, self.function(*inputs)
        except RuntimeError:
            torch.cuda.synchronize(inputs[0].device)
            return None


class Step:
    """N, 1 x C x H x W, and one step of it: box map, loss on logits / T, gradient, optimiser, limit on the distortion.

    pool: this process's part, uint8 or float, of `pooled` fitting images on which the distortion is measured
    """

    def __init__(
        self, classifier: TorchClassifier, settings: Settings, n: Tensor, temperature: float, pool: Tensor, pooled: int,
        steps: int, group: Group,
    ) -> None:  # fmt: skip
        self.classifier, self.settings, self.temperature, self.group = classifier, settings, temperature, group
        self.box, self.n, self.pool, self.pooled = BOXES[settings.box], n.requires_grad_(), pool, pooled
        self.optimiser, self.schedule = _optimiser(self.n, settings, steps)
        self.bent = torch.ones((), device=n.device)  # mean squared distance over the pool, by that of N itself
        self.taken = 0  # in this round
        self.slope = Graphed(self._slope) if n.is_cuda else self._slope

    def __call__(self, x: Tensor, y: Tensor, weights: Tensor, share: float) -> Tensor:
        """Takes a step by float images n x C x H x W, a `share` of the batch; returns the loss of the whole batch."""
        both = self.group.summed(self.slope(x, y, weights) * share)
        self.n.grad = both[:-1].view_as(self.n)
        self.optimiser.step()
        self.schedule.step()
        self.taken += 1
        self._limit(measure=self.taken % PROBED == 1)
        return both[-1]

    def _slope(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """The gradient of the loss to N, and the loss: one row of numbers, so that one message sends it."""
        z = self.box(x, self.n)
        logits = self.classifier.logits(z)
        if not logits.requires_grad:  # the distance has a gradient, so N = 0 would come out, and no word
            raise DataError("The network gives no gradient to its input, as something in it detaches: use `fit_black_box`.")
        loss = objective(logits / self.temperature, y, x, z, self.settings, weights)
        (gradient,) = torch.autograd.grad(loss, self.n)
        return torch.cat([gradient.flatten(), loss.detach().view(1)])

    def end_round(self) -> None:
        if not self.n.isfinite().all():
            raise DataError("The network's gradient to its input is no number: look for a root, a logarithm or a division at 0.")
        self._limit(measure=True)  # of N within the limit: exact to second order
        self.taken = 0

    @torch.no_grad()
    def _limit(self, measure: bool) -> None:
        """Scales N down to the limit on the distortion, by `bent` as it is or measured anew."""
        if not self.settings.min_psnr:
            return
        if measure:
            parts = (to_float(x, self.classifier.device) for x in self.pool.split(64))
            squared = sum((F.mse_loss(self.box(x, self.n), x, reduction="sum") for x in parts), self.n.new_zeros(()))
            mean = self.group.summed(squared) / (self.pooled * self.n.numel())
            self.bent.copy_(mean / self.n.square().mean().clamp_min(1e-20))
        self.n.div_((self.bent * self.n.square().mean() * 10 ** (self.settings.min_psnr / 10)).sqrt().clamp_min(1))

    def state(self) -> dict[str, Any]:
        return {"n": self.n.data, "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.n.data = state["n"].to(self.n.device)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


def fit(
    classifier: TorchClassifier, images: Pictures, labels: Labels, val_images: Pictures, val_labels: Labels,
    settings: Settings = Settings(), seed: int = 0, checkpoint: str | Path | None = None, start: Tensor | None = None,
) -> Perturbation:  # fmt: skip
    """The perturbation found from N = 0 (or `start`, C x H x W), of the round best on validation; the start is one of them.

    images n x C x H x W (uint8, or float in [0, 1]) with labels n (class indices, of any integer type); the same for
    validation. Of rounds equally good the first is kept, so N = 0 unless another is better. `checkpoint` names a file in which
    each finished round is kept: a killed fit goes on from there, and ends as if it had not been killed. `about` of the result
    holds the settings, the temperature (`fitted_at`), the seed, the accuracy at the start, the chosen round (`epoch`, 0: the
    start), the `history` of all, and what `card` reads. All is computed on the classifier's device; the result is on the CPU.
    Raises `DataError` for labels of one class or of classes that the classifier doesn't have, for floats outside [0, 1], for a
    checkpoint of another fit, and where the network has no gradient to its input. Warns where the answers at the start are those
    of a classifier whose classes stand in another order (`metrics.class_order`): N would be taught to be wrong; and where
    validation lacks a class.

    Within a torch.distributed process group, whose processes all give the same images, each takes its part of every batch and of
    the validation images. All return the same perturbation: that of a single one, but for the rounding of sums.
    """
    if not isinstance(classifier, TorchClassifier):
        raise DataError(
            f"A fit by gradients needs TorchClassifier(network), not a {type(classifier).__name__}: wrap the network."
        )
    group, device = Group(), classifier.device
    y, val_y = class_indices(labels).to(device), class_indices(val_labels).cpu()
    for given, known in ((images, y), (val_images, val_y)):
        require_range(given)
        if given.ndim != 4 or not len(given) == len(known) > 0:
            raise DataError(f"Images {tuple(given.shape)} and {len(known)} labels: give n x C x H x W with n labels, n > 0.")
    if len(y.unique()) < 2:
        raise DataError("The fitting images have one class only: a perturbation needs labelled images of each class.")
    if not group.rank:
        warn_of_absent(y, val_y)
    counts = y.bincount().double()
    weight_of = (len(y) / ((counts > 0).sum() * counts) if settings.balance else torch.ones_like(counts)).float()
    some = np.sort(seeds.rng(seed, "pool").permutation(len(images))[:POOL])
    # measured often: laid out once as `to_float` wants it
    pool = torch.as_tensor(images[some])[group.own].to(device).contiguous(memory_format=torch.channels_last)
    if group.size == 1:  # resident on the device; of several, each process moves no more than its part of a batch
        images = torch.as_tensor(np.require(images, requirements=["C", "W"]) if isinstance(images, np.ndarray) else images).to(
            device
        )
    n = (torch.zeros(images.shape[1:]) if start is None else start.clone())[None].to(device)
    few = images[some[:MARGINS]]
    temperature = settings.temperature or _temperature(classifier, BOXES[settings.box], to_float(few, device), n)
    rounds, draws = settings.schedule(len(images))
    steps = draws * settings.inner_steps
    step = Step(classifier, settings, n, temperature, pool, len(some), rounds * steps, group)
    highest = torch.tensor([len(counts) - 1, int(val_y.max())])
    fitted_on, chosen_on = card.fitted_on(images, y.cpu()), card.fitted_on(val_images, val_y)
    answers = card.weights(classifier.net)
    digests = [hashlib.sha256(known.cpu().numpy().tobytes()).hexdigest() for known in (y, val_y, n.detach())]
    whose = {"fit": (key(settings), seed, answers), "fitted_on": fitted_on, "chosen_on": chosen_on, "given": digests}

    said = torch.zeros(len(val_y[group.own]), dtype=torch.int64)  # of this process's part of the validation images, at last

    def accuracy() -> float:
        found = Perturbation(step.n[0], settings.box)
        for x, into in zip(batches(val_images[group.own], device), batches(said, device), strict=True):
            scores = classifier.scores(found.apply(x, device))
            require_known(highest, scores.shape[1])
            torch.as_tensor(into).copy_(scores.argmax(1))
        right = (said == val_y[group.own]).sum().double()
        return group.summed(right.to(device)).item() / len(val_y)

    checkpoint = None if group.rank or checkpoint is None else Path(checkpoint)  # the first process reads and writes it, for all
    held = [torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint and checkpoint.is_file() else None]
    if group.size > 1:
        dist.broadcast_object_list(held)
    if kept := held[0]:
        if kept.get("whose") != whose:
            raise DataError(f"{checkpoint or 'The checkpoint'} is of another fit: take it away, or name another file.")
        step.load(kept)
    best: Tensor = kept["best"].to(device) if kept else n.detach().clone()
    history: list[dict[str, float]] = kept["history"] if kept else []
    reached = [kept["first"] if kept else accuracy(), *(h["val_accuracy"] for h in history)]
    if not kept and group.size == 1:
        from dftlib.metrics import class_order  # scipy takes long to import: not for who only applies N

        try:
            class_order.require_order(said.numpy(), val_y.numpy(), int(max(highest.max(), said.max())) + 1)
        except class_order.ClassOrderError as error:
            warnings.warn(f"{error} If they are right as they are, go on.", stacklevel=2)
    how: dict[str, Any] = {"desc": "fit", "unit": "step", "silent": group.rank > 0, "leave": False}
    bar = tqdm(total=rounds * steps, initial=len(history) * steps, **how)
    last = settings.patience  # rounds, of which one at least must be better than all before
    while len(history) < rounds and max(reached[-last:]) > max(reached[:-last], default=-1):
        losses = torch.zeros(steps, device=device)  # made before the steps: what stays of each would break up their memory
        for x, where, share in _drawn(images, settings, draws, seeds.rng(seed, len(history)), group, device):
            known = y[where]
            weights = weight_of[known]
            for _ in range(settings.inner_steps):
                loss = step(x, known, weights, share)
                losses[step.taken - 1] = loss
                bar.update()
        step.end_round()
        reached.append(accuracy())
        if reached[-1] > max(reached[:-1]):
            best = step.n.detach().clone()
        history.append({"loss": losses.mean().item(), "val_accuracy": reached[-1]})
        bar.set_postfix(val=f"{reached[-1]:.3f}")
        if checkpoint:
            with whole(checkpoint) as temporary:
                torch.save({**step.state(), "best": best, "history": history, "first": reached[0], "whose": whose}, temporary)
    bar.close()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    about = {"fitted_at": temperature, "start": reached[0], "epoch": int(np.argmax(reached)), "history": history}
    about |= {"fitted_on": fitted_on, "classifier": answers}
    about |= card.distortion(few, Perturbation(best[0], settings.box).apply(few, device))
    if start is None and settings.box != "printed":  # else the start isn't the images as they are
        about["validation"] = card.shares(len(val_y), reached[0], max(reached))
    return Perturbation(best[0].cpu(), settings.box, {**asdict(settings), "seed": seed, **about})


def _drawn(
    images: Pictures, settings: Settings, draws: int, draw: np.random.Generator, group: Group, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The batches of a round, of each this process's part: float images, their rows, and the share of the batch they are.

    All images come, in random order, before any comes again.
    """
    wanted = draws * settings.batch_size if settings.steps else len(images)
    order = torch.from_numpy(np.concatenate([draw.permutation(len(images)) for _ in range(-(-wanted // len(images)))])[:wanted])
    turned = torch.from_numpy((draw.random(len(order)) < 0.5) if settings.mirror else np.zeros(len(order), bool))
    where = images.device if isinstance(images, Tensor) else torch.device("cpu")
    order, turned = order.to(where), turned.to(where)  # all at once: a GPU would wait for each batch's own
    for rows, flip in zip(order.split(settings.batch_size), turned.split(settings.batch_size), strict=True):
        part = group.own if group.rank < len(rows) else slice(1)  # with no image left for it a process goes along, at weight 0
        mine = rows[part]
        x = images.index_select(0, mine) if isinstance(images, Tensor) else torch.from_numpy(images[mine.numpy()])
        x = to_float(torch.where(flip[part].view(-1, 1, 1, 1), x.flip(3), x), device)
        yield x, mine.to(device), len(range(group.rank, len(rows), group.size)) / len(rows)


@torch.no_grad()
def _temperature(classifier: TorchClassifier, box: BoxMap, images: Tensor, n: Tensor) -> float:
    """0.7 x the median margin: a classifier surer than that has hardly a gradient where it is wrong, and N no way there."""
    return max(0.7 * margin(torch.cat([classifier.logits(box(x, n)) for x in images.split(64)])), 1e-6)
