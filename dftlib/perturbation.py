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


PROBE = 128  # pictures of a batch on which the limit on the distortion is measured


@dataclass(frozen=True)
class Settings:
    """How a perturbation is fitted; the defaults are the paper's ('Perturbation Learning') where it names them."""

    box: str = "atanh"
    distance: str = "mean"
    weight: float = 1.0
    min_psnr: float = 0.0  # decibels that N must leave on average; 0: no limit
    optimiser: str = "adam"
    mirror: bool = False  # mirror each fitting picture with probability 1/2, anew at every batch
    learning_rate: float = 0.001
    batch_size: int = 800
    inner_steps: int = 16
    epochs: int = 5
    patience: int = 5

    def __post_init__(self) -> None:
        if self.box not in BOXES:
            raise DataError(f"There is no box map '{self.box}': choose one of {', '.join(BOXES)}.")
        for name in ("batch_size", "inner_steps", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise DataError(f"Parameter '{name}' must be 1 or more, not {getattr(self, name)}.")
        if self.distance not in ("mean", "sum"):
            raise DataError(f"There is no distance '{self.distance}': choose 'mean' or 'sum'.")
        if self.optimiser not in ("adam", "steepest"):
            raise DataError(f"There is no optimiser '{self.optimiser}': choose 'adam' or 'steepest'.")
        if self.min_psnr and self.box == "printed":
            raise DataError("The box map 'printed' changes pictures at N = 0 already: set min_psnr to 0, or another box map.")


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


def objective(logits: Tensor, labels: Tensor, images: Tensor, z: Tensor, settings: Settings) -> Tensor:
    """Equations 11 and 12: mean over pictures of max(0, 1 - y·P) + weight x distance, a scalar.

    logits n x classes, labels n (int64), images and z n x 3 x H x W. `distance` is the squared Frobenius norm of X - Z,
    summed over a picture's pixels ('sum', as printed) or averaged over them ('mean').
    """
    true = logits.softmax(1).gather(1, labels[:, None])
    squared = F.mse_loss(z, images)
    if settings.distance == "sum":
        squared = squared * images[0].numel()
    return F.relu(1 - true).mean() + settings.weight * squared


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
    """The perturbation found from N = 0 (or `start`, 3 x H x W), of the epoch best on validation (first of equals).

    images n x 3 x H x W (uint8, or float in [0, 1]) with labels n (int64 class indices); the same for validation. Every
    batch is drawn once an epoch and takes `inner_steps` steps before the next. `checkpoint` names a file in which each
    finished epoch is kept: a killed fit goes on from there, and ends as if it had not been killed. `about` of the result
    holds the settings, the seed, the chosen epoch and the history. Raises `DataError` for labels of one class.

    Within a torch.distributed process group each process takes its part of every batch and of the validation pictures, and
    a step ends in one all-reduce of N's gradient (a limit on the distortion takes another of one number). All processes
    give the same pictures and return the same perturbation: that of a single one, but for the rounding of sums.
    """
    if len(labels.unique()) < 2:
        raise DataError("The fitting pictures have one class only: a perturbation needs labelled pictures of each class.")
    device, box = classifier.device, BOXES[settings.box]
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if processes == 1:  # resident on the device; of several, each process moves no more than its part of a batch
        images = torch.as_tensor(np.require(images, requirements="W") if isinstance(images, np.ndarray) else images).to(device)
    labels = labels.to(device)
    own = slice(rank, None, processes)

    def own_of(count: int) -> int:
        return len(range(rank, count, processes))

    n = (torch.zeros(images.shape[1:]) if start is None else start.clone())[None].to(device).requires_grad_()
    steps = -(-len(images) // settings.batch_size) * settings.inner_steps
    optimiser, schedule = _optimiser(n, settings, settings.epochs * steps)
    history: list[dict[str, float]] = []
    best = n.detach().clone()
    checkpoint = None if rank else checkpoint  # the first process reads and writes it, for all
    kept = [torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint and checkpoint.is_file() else None]
    if processes > 1:
        dist.broadcast_object_list(kept)
    if kept[0]:
        n.data, best, history = kept[0]["n"].to(device), kept[0]["best"].to(device), kept[0]["history"]
        optimiser.load_state_dict(kept[0]["optimiser"])
        schedule.load_state_dict(kept[0]["schedule"])
    done = len(history) * steps
    bar = tqdm(total=settings.epochs * steps, initial=done, desc="fit", unit="step", silent=rank > 0, leave=False)
    while len(history) < settings.epochs and not _stalled(history, settings.patience):
        draw = config.rng(seed, len(history))
        order = torch.from_numpy(draw.permutation(len(images)))
        losses, taken = torch.empty(steps, device=device), 0
        for rows in (order.to(device) if processes == 1 else order).split(settings.batch_size):
            part = own if rank < len(rows) else slice(1)  # with no picture left for it a process goes along, at weight 0
            mine = rows[part]
            x, y = to_float(images[mine if isinstance(images, Tensor) else mine.numpy()], device), labels[mine]
            if settings.mirror:
                turned = torch.from_numpy(np.flatnonzero(draw.random(len(rows))[part] < 0.5)).to(device)
                x[turned] = x[turned].flip(3)
            probed = min(PROBE, len(rows))
            probe = x[: max(1, own_of(probed))]
            for _ in range(settings.inner_steps):
                z = box(x, n)
                loss = objective(classifier.logits(z), y, x, z, settings) * (own_of(len(rows)) / len(rows))
                (gradient,) = torch.autograd.grad(loss, n)
                both = _summed(torch.cat([gradient.flatten(), loss.detach().view(1)]))
                n.grad = both[:-1].view_as(n)
                optimiser.step()
                schedule.step()
                if settings.min_psnr:
                    with torch.no_grad():
                        squared = F.mse_loss(box(probe, n), probe) * (own_of(probed) / probed)
                        # to first order in N, whose scale this is
                        n /= (_summed(squared) * 10 ** (settings.min_psnr / 10)).sqrt().clamp_min(1)
                losses[taken], taken = both[-1], taken + 1
                bar.update()
        found = Perturbation(n.detach()[0].cpu().clone(), settings.box)
        parts = zip(batches(val_images[own]), batches(val_labels[own]), strict=True)
        right = sum(int((classifier.scores(found.apply(x)).argmax(1) == torch.as_tensor(y)).sum()) for x, y in parts)
        accuracy = _summed(torch.tensor(right, dtype=torch.float64, device=device)).item() / len(val_labels)
        if accuracy > max((h["val_accuracy"] for h in history), default=-1.0):
            best = n.detach().clone()
        history.append({"loss": losses.mean().item(), "val_accuracy": accuracy})
        bar.set_postfix(val=f"{accuracy:.3f}")
        if checkpoint:
            with whole(checkpoint) as temporary:
                state = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
                torch.save({"n": n.data, "best": best, "history": history, **state}, temporary)
    bar.close()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    epoch = max(range(len(history)), key=lambda e: history[e]["val_accuracy"]) + 1
    return Perturbation(best[0].cpu(), settings.box, {**asdict(settings), "seed": seed, "epoch": epoch, "history": history})


def _summed(tensor: Tensor) -> Tensor:
    """The sum over the processes of a torch.distributed group, in place; without a group, the tensor."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def _stalled(history: list[dict[str, float]], patience: int) -> bool:
    accuracies = [h["val_accuracy"] for h in history]
    return len(accuracies) > patience and max(accuracies[-patience:]) <= max(accuracies[:-patience])
