"""One perturbation N for a whole data set: box maps, objective and gradient fit (Data Fine-tuning, equations 4 to 12)."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dftlib import config
from dftlib.classifiers import Pictures, TorchClassifier, batches, to_float
from dftlib.config import DataError
from dftlib.progress import tqdm
from dftlib.store import whole


def printed(images: Tensor, n: Tensor) -> Tensor:
    """Z = (tanh(X + N) + 1) / 2, equation 5 as printed. At N = 0 it maps [0, 1] to [0.50, 0.88]."""
    return (torch.tanh(images + n) + 1) / 2


class _Atanh(torch.autograd.Function):
    """`atanh` in parts that stay in a processor's cache; back to N by dZ/dN = 2 Z (1 - Z), from Z alone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, n: Tensor) -> Tensor:
        images, gain = torch.broadcast_tensors(images, torch.exp(2 * n.clamp(-40, 40)))
        z = torch.empty_like(images)
        for x, g, lit in zip(_parts(images), _parts(gain), _parts(z), strict=True):
            torch.mul(x, g, out=lit)
            lit.div_((1 - x).add_(lit))
        ctx.save_for_backward(z)
        ctx.shape = n.shape
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        (z,) = ctx.saved_tensors
        each = torch.empty_like(z)
        for part, g, out in zip(_parts(z), _parts(gradient), _parts(each), strict=True):
            torch.addcmul(part, part, part, value=-1, out=out).mul_(g)
        return None, 2 * each.sum_to_size(ctx.shape)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Of a batch on a processor, 16 pictures at a time; on a GPU, which hides a call's cost behind the last one's work, all."""
    return tensor.split(16 if tensor.device.type == "cpu" else max(1, len(tensor)))


def atanh(images: Tensor, n: Tensor) -> Tensor:
    """Z = (tanh(atanh(2X - 1) + N) + 1) / 2, Carlini and Wagner's change of variable; the identity at N = 0.

    Computed as X g / (1 + X (g - 1)) with g = exp(2N): the same function, finite at X = 0 and 1, and with no transcendental
    function of the batch. N adds to the log-odds of a pixel: it multiplies X / (1 - X) by g. Gradients lead to N alone.
    """
    return cast(Tensor, _Atanh.apply(images, n))


def clip(images: Tensor, n: Tensor) -> Tensor:
    """Z = min(max(X + N, 0), 1); the identity at N = 0."""
    return (images + n).clamp(0, 1)


BOXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"atanh": atanh, "printed": printed, "clip": clip}


POOL = 512  # fitting pictures on which the limit on the distortion is measured
PROBED = 10  # steps from one measurement of it to the next
MARGINS = 250  # fitting pictures whose margins set the temperature
ROUNDS = 4  # into which `Settings.steps` are divided


@dataclass(frozen=True)
class Settings:
    """How a perturbation is fitted; the defaults are the paper's ('Perturbation Learning') where it names them."""

    box: str = "atanh"
    distance: str = "mean"
    weight: float = 1.0
    min_psnr: float = 0.0  # decibels that N must leave on average; 0: no limit
    temperature: float = 1.0  # T of the loss, which is on logits / T; 0: 0.7 x the median margin of the logits at the start
    balance: bool = False  # weigh fitting pictures so that every class counts the same
    optimiser: str = "adam"
    mirror: bool = False  # flip each fitting picture with probability 1/2, anew at every batch
    learning_rate: float = 0.001
    batch_size: int = 800
    inner_steps: int = 16
    steps: int = 0  # optimiser steps, in `ROUNDS` rounds; 0: `epochs` rounds, each of all batches of the fitting pictures
    epochs: int = 5
    patience: int = 5  # rounds without a better validation accuracy before the fit stops

    def __post_init__(self) -> None:
        if self.box not in BOXES:
            raise DataError(f"There is no box map '{self.box}': choose one of {', '.join(BOXES)}.")
        for name in ("batch_size", "inner_steps", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise DataError(f"Parameter '{name}' must be 1 or more, not {getattr(self, name)}.")
        for name in ("temperature", "steps"):
            if getattr(self, name) < 0:
                raise DataError(f"Parameter '{name}' must be 0 or more, not {getattr(self, name)}.")
        if self.distance not in ("mean", "sum"):
            raise DataError(f"There is no distance '{self.distance}': choose 'mean' or 'sum'.")
        if self.optimiser not in ("adam", "steepest"):
            raise DataError(f"There is no optimiser '{self.optimiser}': choose 'adam' or 'steepest'.")
        if self.min_psnr and self.box == "printed":
            raise DataError("The box map 'printed' changes pictures at N = 0 already: set min_psnr to 0, or another box map.")

    def schedule(self, pictures: int) -> tuple[int, int]:
        """Rounds, and draws of a batch in each (every draw takes `inner_steps` steps), for so many fitting pictures."""
        if not self.steps:
            return self.epochs, -(-pictures // self.batch_size)
        rounds = min(ROUNDS, max(1, self.steps // self.inner_steps))
        return rounds, max(1, round(self.steps / (rounds * self.inner_steps)))


@dataclass(frozen=True)
class Perturbation:
    """One N, float32 3 x H x W, and the box map that adds it; `about` says how it came to be (JSON-able)."""

    n: Tensor
    box: str = "atanh"
    about: dict[str, Any] = field(default_factory=dict)

    def apply(self, images: Pictures) -> Tensor:
        """Z of pictures n x 3 x H x W (uint8, or float in [0, 1]): float32 in [0, 1], on the CPU, in batches."""
        cpu = torch.device("cpu")
        if tuple(images.shape[1:]) != tuple(self.n.shape):
            raise DataError(
                f"The perturbation is for pictures {tuple(self.n.shape)}, not {tuple(images.shape[1:])}: resize them."
            )
        return torch.cat([BOXES[self.box](to_float(batch, cpu), self.n) for batch in batches(images)])

    def apply_uint8(self, images: Pictures) -> Tensor:
        """As `apply`, rounded to whole grey levels: uint8 n x 3 x H x W, what leaves the computer."""
        return (self.apply(images) * 255).round().to(torch.uint8)

    def picture(self) -> Tensor:
        """N to look at: uint8 3 x H x W, mid-grey where N is zero, stretched to its largest absolute value."""
        return ((self.n / self.n.abs().max().clamp_min(1e-12) + 1) * 127.5).round().to(torch.uint8)

    def save(self, path: str | Path) -> None:
        """Writes `path` (safetensors with its metadata) and, beside it, the picture as PNG; each whole or not at all."""
        path = Path(path)
        said = json.dumps({"box": self.box, "about": self.about}, sort_keys=True)
        with whole(path) as temporary:
            save_file({"n": self.n.contiguous()}, temporary, {"perturbation": said})  # one key: several are written in any order
        with whole(path.with_suffix(".png")) as temporary:
            Image.fromarray(self.picture().permute(1, 2, 0).numpy()).save(temporary)

    @staticmethod
    def load(path: str | Path) -> "Perturbation":
        """Reads what `save` wrote; `DataError` for a file that is missing or something else. Runs no code from the file."""
        try:
            with safe_open(path, "pt") as file:
                meta, n = file.metadata() or {}, file.get_tensor("n")
            said = json.loads(meta["perturbation"])
            loaded = Perturbation(n, said["box"], said["about"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is not a saved perturbation ({error}): name a file that Perturbation.save wrote.") from None
        if (
            loaded.box not in BOXES
            or n.dtype != torch.float32
            or n.ndim != 3
            or not n.numel()
            or not n.isfinite().all()
            or not isinstance(loaded.about, dict)
        ):
            raise DataError(f"{path} holds no valid perturbation: fit it again.")
        return loaded


def objective(
    logits: Tensor, labels: Tensor, images: Tensor, z: Tensor, settings: Settings, weights: Tensor | None = None
) -> Tensor:
    """Equations 11 and 12: mean over pictures of max(0, 1 - y·P) + weight x distance, a scalar.

    logits n x classes (already divided by the temperature), labels n (int64), images and z n x 3 x H x W, weights of the
    pictures n. `distance` is the squared Frobenius norm of X - Z, summed over a picture's pixels ('sum', as printed) or
    averaged over them ('mean').
    """
    wrong = F.relu(1 - logits.softmax(1).gather(1, labels[:, None])[:, 0])
    squared = F.mse_loss(z, images)
    if settings.distance == "sum":
        squared = squared * images[0].numel()
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


def fit(
    classifier: TorchClassifier,
    images: Pictures,
    labels: Tensor,
    val_images: Pictures,
    val_labels: Tensor,
    settings: Settings = Settings(),
    seed: int = 0,
    checkpoint: Path | None = None,
    start: Tensor | None = None,
) -> Perturbation:
    """The perturbation found from N = 0 (or `start`, 3 x H x W), of the round best on validation; the start is one of them.

    images n x 3 x H x W (uint8, or float in [0, 1]) with labels n (int64 class indices); the same for validation. Pictures
    are drawn in random order, each batch for `inner_steps` steps, in rounds that end with the validation pictures; of equals
    the first is kept, so N = 0 unless another is better. `checkpoint` names a file in which each finished round is kept: a
    killed fit goes on from there, and ends as if it had not been killed. `about` of the result holds the settings, the
    temperature, the seed, the accuracy at the start, the chosen round (0: the start) and the history of all. Raises
    `DataError` for labels of one class.

    Within a torch.distributed process group each process takes its part of every batch and of the validation pictures, and
    a step ends in one all-reduce of N's gradient (a limit on the distortion takes another of one number every `PROBED`
    steps). All processes give the same pictures and return the same perturbation: that of a single one, but for the
    rounding of sums.
    """
    if len(labels.unique()) < 2:
        raise DataError("The fitting pictures have one class only: a perturbation needs labelled pictures of each class.")
    device, box = classifier.device, BOXES[settings.box]
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    some = np.sort(config.rng(seed, "pool").permutation(len(images))[:POOL])
    pool = torch.as_tensor(images[some])[rank::processes].to(device)
    if processes == 1:  # resident on the device; of several, each process moves no more than its part of a batch
        images = torch.as_tensor(np.require(images, requirements="W") if isinstance(images, np.ndarray) else images).to(device)
    labels = labels.to(device)
    counts = labels.bincount().double()
    weight_of = (len(labels) / ((counts > 0).sum() * counts)).float() if settings.balance else None
    own = slice(rank, None, processes)

    def own_of(count: int) -> int:
        return len(range(rank, count, processes))

    n = (torch.zeros(images.shape[1:]) if start is None else start.clone())[None].to(device).requires_grad_()
    temperature = settings.temperature or _temperature(classifier, box, to_float(images[some[:MARGINS]], device), n)
    rounds, draws = settings.schedule(len(images))
    steps = draws * settings.inner_steps
    optimiser, schedule = _optimiser(n, settings, rounds * steps)
    history: list[dict[str, float]] = []
    floor = 10 ** (settings.min_psnr / 10)
    bent = torch.ones((), device=device)  # mean squared distance over the pool, by that of N itself

    def accuracy() -> float:
        found = Perturbation(n.detach()[0].cpu().clone(), settings.box)
        parts = zip(batches(val_images[own]), batches(val_labels[own]), strict=True)
        right = sum(int((classifier.scores(found.apply(x)).argmax(1) == torch.as_tensor(y)).sum()) for x, y in parts)
        return _summed(torch.tensor(right, dtype=torch.float64, device=device)).item() / len(val_labels)

    @torch.no_grad()
    def measure() -> None:
        parts = (to_float(x, device) for x in pool.split(64))
        squared = sum((F.mse_loss(box(x, n), x, reduction="sum") for x in parts), n.new_zeros(()))
        bent.copy_(_summed(squared) / (len(some) * n.numel()) / n.square().mean().clamp_min(1e-20))

    @torch.no_grad()
    def limit() -> None:
        n.div_((bent * n.square().mean() * floor).sqrt().clamp_min(1))

    best = n.detach().clone()
    checkpoint = None if rank else checkpoint  # the first process reads and writes it, for all
    kept = [torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint and checkpoint.is_file() else None]
    if processes > 1:
        dist.broadcast_object_list(kept)
    if kept[0]:
        n.data, best, history, first = kept[0]["n"].to(device), kept[0]["best"].to(device), kept[0]["history"], kept[0]["first"]
        optimiser.load_state_dict(kept[0]["optimiser"])
        schedule.load_state_dict(kept[0]["schedule"])
    else:
        first = accuracy()
    bar = tqdm(total=rounds * steps, initial=len(history) * steps, desc="fit", unit="step", silent=rank > 0, leave=False)
    while len(history) < rounds and not _stalled(first, history, settings.patience):
        draw = config.rng(seed, len(history))
        order = torch.from_numpy(_order(draw, len(images), draws * settings.batch_size if settings.steps else len(images)))
        losses, taken = torch.empty(steps, device=device), 0
        for rows in (order.to(device) if processes == 1 else order).split(settings.batch_size):
            part = own if rank < len(rows) else slice(1)  # with no picture left for it a process goes along, at weight 0
            mine = rows[part]
            x, y = to_float(images[mine if isinstance(images, Tensor) else mine.numpy()], device), labels[mine]
            if settings.mirror:
                turned = torch.from_numpy(np.flatnonzero(draw.random(len(rows))[part] < 0.5)).to(device)
                x[turned] = x[turned].flip(3)
            weights = None if weight_of is None else weight_of[y]
            for _ in range(settings.inner_steps):
                z = box(x, n)
                loss = objective(classifier.logits(z) / temperature, y, x, z, settings, weights) * (own_of(len(rows)) / len(rows))
                (gradient,) = torch.autograd.grad(loss, n)
                both = _summed(torch.cat([gradient.flatten(), loss.detach().view(1)]))
                n.grad = both[:-1].view_as(n)
                optimiser.step()
                schedule.step()
                losses[taken], taken = both[-1], taken + 1
                if settings.min_psnr:
                    if taken % PROBED == 1:
                        measure()
                    limit()
                bar.update()
        if settings.min_psnr:
            measure()  # of N within the limit: exact to second order, where each round ends
            limit()
        reached = accuracy()
        if reached > max([first, *(h["val_accuracy"] for h in history)]):
            best = n.detach().clone()
        history.append({"loss": losses.mean().item(), "val_accuracy": reached})
        bar.set_postfix(val=f"{reached:.3f}")
        if checkpoint:
            with whole(checkpoint) as temporary:
                state = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(), "first": first}
                torch.save({"n": n.data, "best": best, "history": history, **state}, temporary)
    bar.close()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    reached_by = [first, *(h["val_accuracy"] for h in history)]
    about = {"seed": seed, "fitted_at": temperature, "start": first, "epoch": int(np.argmax(reached_by)), "history": history}
    return Perturbation(best[0].cpu(), settings.box, {**asdict(settings), **about})


def _order(draw: np.random.Generator, pictures: int, wanted: int) -> NDArray[np.int64]:
    """So many places of pictures, all of them in random order before any comes again."""
    return np.concatenate([draw.permutation(pictures) for _ in range(-(-wanted // pictures))])[:wanted]


@torch.no_grad()
def _temperature(classifier: TorchClassifier, box: Callable[[Tensor, Tensor], Tensor], images: Tensor, n: Tensor) -> float:
    """0.7 x the median margin: a classifier surer than that has hardly a gradient where it is wrong, and N no way there."""
    return max(0.7 * margin(torch.cat([classifier.logits(box(x, n)) for x in images.split(64)])), 1e-6)


def _summed(tensor: Tensor) -> Tensor:
    """The sum over the processes of a torch.distributed group, in place; without a group, the tensor."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def _stalled(first: float, history: list[dict[str, float]], patience: int) -> bool:
    accuracies = [first, *(h["val_accuracy"] for h in history)]
    return len(accuracies) > patience and max(accuracies[-patience:]) <= max(accuracies[:-patience])
