"""What a step of a fit costs above one forward and backward pass to the picture, and what bfloat16 saves and changes.

    python tests/benchmarks/fit_step.py [--csv FILE]

DlibAge and NNET, trained on the drawn set 'press'; the settings of the profile demo. A step is what a fit of `LONG` steps takes
longer than one of `SHORT`: drawing, mirroring, box map, loss, limit on the distortion, all but what a fit costs once, which has a
row of its own. 'Share of peak' holds the products that a step needs against a product of two
2048 x 2048 matrices in the same precision on the same threads.
"""

import copy
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from timing import Measured, best, run
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dftlib.classifiers.base import TorchClassifier
from dftlib.experiments.lab import Lab, settings_of
from dftlib.experiments.profile import dtype_of, load_profile
from dftlib.images import batches, to_float
from dftlib.perturbation.gradient import Settings, _optimiser, fit, objective

SHORT, LONG = 12, 52  # four rounds each; the limit is measured anew every ten steps
IMAGES = 600  # as many as the demonstration fits on
FLOORS = 10  # steps of a floor that are timed together
SIDE = 2048  # of the matrices whose product says what the processor can do
REPEATS = 8  # short ones: one of them finds the machine idle
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAVED, CHANGED = 1.8, 0.5  # times that a step in bfloat16 is faster, at least; points of accuracy it may change


def floor(model: TorchClassifier, x: Tensor, y: Tensor, steps: int) -> None:
    """Nothing but the network, there and back."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model.logits(x), y)
        loss.backward()
        for p in model.net.parameters():
            p.grad = None


def compiled(model: TorchClassifier, x: Tensor, y: Tensor, settings: Settings) -> Callable[[int], None]:
    """Steps whose way from N to the loss and back is compiled as a whole; no batch is drawn, mirrored or measured in them."""
    # CUDA graphs start a step's kernels at once; on a processor they don't exist.
    mode = "reduce-overhead" if x.is_cuda else "default"
    n = torch.zeros_like(x[:1]).requires_grad_()
    optimiser, schedule = _optimiser(n, settings, 1000)

    @torch.compile(mode=mode, fullgraph=True)
    def loss(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
        lit = x * torch.exp(2 * n)  # `atanh` as a formula, for the compiler to fuse
        z = lit / (1 - x + lit)
        return objective(model.logits(z), y, x, z, settings)

    def steps(count: int) -> None:
        for _ in range(count):
            (n.grad,) = torch.autograd.grad(loss(n, x, y), n)
            optimiser.step()
            schedule.step()

    return steps


@torch.inference_mode()
def right(model: TorchClassifier, lab: Lab) -> float:
    """Percent of all sets' test pictures, most of them from other sets than its own, that the logits classify correctly."""
    found = []
    for name in lab.profile.datasets:
        faces = lab.faces(name, "subject")
        images, wanted = faces.images[faces.split == "test"], faces.labels["Gender"].to_numpy()[faces.split == "test"]
        answers = torch.cat([model.logits(to_float(part, model.device)).argmax(1).cpu() for part in batches(images)])
        found.append(answers == torch.from_numpy(wanted))
    return 100 * torch.cat(found).double().mean().item()


def measure(device: torch.device) -> list[Measured]:
    bound = 1.10 if device.type == "cuda" else 1.05
    lab = Lab(load_profile("demo"))
    net = lab.classifier("press", "Gender", "subject", 0).net
    models = {name: TorchClassifier(copy.deepcopy(net), device, dtype) for name, dtype in PRECISIONS.items()}
    plain, thawed = (TorchClassifier(copy.deepcopy(net), device) for _ in range(2))
    plain.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    thawed.net.requires_grad_(True)
    faces = lab.faces("press", "subject")
    few = torch.arange(IMAGES)
    images = torch.from_numpy(faces.images)[few].to(device)
    labels = torch.from_numpy(faces.labels["Gender"].to_numpy().astype("int64"))[few].to(device)
    settings = settings_of(lab.profile)
    x, y = to_float(images[: settings.batch_size], device), labels[: settings.batch_size]

    rows: dict[str, Callable[[], object]] = {
        "floor, float32": partial(floor, models["float32"], x, y, FLOORS),
        "floor, float32, contiguous": partial(floor, plain, x.contiguous(), y, FLOORS),
        "floor, float32, weights not frozen": partial(floor, thawed, x, y, FLOORS),
        "floor, bfloat16": partial(floor, models["bfloat16"], x, y, FLOORS),
    }
    for name, model in models.items():
        for count in (SHORT, LONG):
            of = replace(settings, steps=count)
            rows[f"{count} steps, {name}"] = partial(fit, model, images, labels, images[:1].cpu(), labels[:1].cpu(), of)
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cuda" or shutil.which(compiler):
        for name, model in models.items():
            rows[f"fit step, {name}, compiled"] = partial(compiled(model, x, y, settings), FLOORS)
    else:
        print(f"torch.compile is left out: it needs the C++ compiler {compiler}", file=sys.stderr)
    # float32 convolutions round their factors to TF32 on a GPU, by torch's default: then so must the matrices.
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    for name, dtype in PRECISIONS.items():
        matrix = torch.randn(SIDE, SIDE, device=device).to(dtype)
        rows[f"matrices, {name}"] = partial(lambda m: [m @ m for _ in range(FLOORS)], matrix)
    took = best(rows, device, REPEATS)
    whole = {name: [1000 * took.pop(f"{count} steps, {name}") for count in (SHORT, LONG)] for name in models}
    ms = {name: 1000 * seconds / FLOORS for name, seconds in took.items()}
    ms |= {f"fit step, {name}": (long - short) / (LONG - SHORT) for name, (short, long) in whole.items()}

    def row(name: str, of: str, target: float = math.nan) -> Measured:
        return Measured("fit step", name, ms[name], "ms", ms[name] / ms[of], of, target)

    found = [row(name, "floor, float32") for name in ms if name.startswith("floor")]
    for name in models:
        found.append(row(f"fit step, {name}", f"floor, {name}", bound))
        step = f"fit step, {name}"
        once = whole[name][0] - SHORT * ms[step]
        found.append(Measured("fit step", f"what a fit costs once, {name}", once, "ms", once / ms[step], step))
        if f"fit step, {name}, compiled" in ms:
            found.append(row(f"fit step, {name}, compiled", f"fit step, {name}"))
    # Where bfloat16 is emulated it saves nothing, and the kit doesn't take it.
    native = dtype_of(lab.profile, device) == torch.bfloat16
    target = 1 / SAVED if native else math.nan
    found.append(row("fit step, bfloat16", "floor, float32", target))
    with FlopCounterMode(display=False) as counter:
        floor(models["float32"], x, y, 1)
    for name in models:
        step = counter.get_total_flops() / ms[f"fit step, {name}"]
        peak = 2 * SIDE**3 / ms[f"matrices, {name}"]
        found.append(Measured("fit step", f"rate of a fit step, {name}", step / 1e6, "GFLOP/s"))
        found.append(Measured("fit step", f"rate of matrices, {name}", peak / 1e6, "GFLOP/s"))
        found.append(Measured("fit step", f"share of peak, {name}", 100 * step / peak, "%"))
    accuracy = {name: right(model, lab) for name, model in models.items()}
    found.append(Measured("fit step", "accuracy, float32", accuracy["float32"], "%"))
    changed = abs(accuracy["bfloat16"] - accuracy["float32"])
    found.append(Measured("fit step", "accuracy that bfloat16 changes", changed, "points", target=CHANGED))
    return found


if __name__ == "__main__":
    run(measure, __doc__ or "")
