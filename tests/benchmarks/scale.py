"""What the paper's own experiment would cost: CelebA at 224 x 224, VGG-16, on 1, 8 and 64 GPUs, reckoned from measured steps.

    python tests/benchmarks/scale.py [--csv FILE]

Measured here: a fit step of VGG-16, and the all-reduce of N's gradient over two processes. Reckoned for GPUs: a step takes a
picture's operations over SHARE of PEAK (on a GPU: the measured step instead), its part of a batch comes over BUS once for all
of the batch's steps, and the all-reduce takes LATENCY and its bytes over LINK.
"""

import math
import tempfile

import torch
import torch.distributed as dist
from timing import Measured, best, run
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.utils.flop_counter import FlopCounterMode

from dftlib import seeds
from dftlib._torchvision import models as tv
from dftlib.classifiers.base import TorchClassifier
from dftlib.experiments.lab import settings_of
from dftlib.experiments.profile import dtype_of, load_profile
from dftlib.models.backbones import AttributeNet, nnet
from dftlib.models.base import Backbone
from dftlib.perturbation.box_maps import BOXES
from dftlib.perturbation.gradient import Settings, objective

SIZE, TRAIN = 224, 162_770  # pixels; CelebA's training pictures, of 202,599
GPUS = (1, 8, 64)
# Of an H200, from its data sheet: dense bfloat16 operations, NVLink in one direction, and PCIe 5.0 x 16.
PEAK, LINK, BUS = 989e12, 450e9, 50e9  # a second; bytes a second; bytes a second
SHARE = 0.4  # of the peak that VGG-16 is taken to reach: an assumption
LATENCY = 50e-6  # seconds of a small all-reduce between machines: an assumption


class Vgg(Backbone):
    """VGG-16 with weights of chance: as fast as the trained one."""

    features, size = 4096, SIZE

    def __init__(self) -> None:
        super().__init__()
        self.net = tv.vgg16(weights=None, num_classes=2)
        self.net.classifier = self.net.classifier[:5]

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.to(next(self.parameters()).dtype))


def step(classifier: TorchClassifier, x: Tensor, y: Tensor, settings: Settings) -> None:
    n = torch.zeros(1, 3, SIZE, SIZE, device=x.device, requires_grad=True)
    z = BOXES[settings.box](x, n)
    torch.autograd.grad(objective(classifier.logits(z), y, x, z, settings), n)


def _reduce(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    gradient = torch.zeros(3 * SIZE * SIZE + 1)
    took = best({"all-reduce": lambda: dist.all_reduce(gradient)}, gradient.device, 50)["all-reduce"]
    if not rank:
        torch.save(took, f"{folder}/took.pt")
    dist.barrier()
    dist.destroy_process_group()


def measure(device: torch.device) -> list[Measured]:
    profile = load_profile("paper")
    settings = settings_of(profile)
    seeds.seed_all(0)
    classifier = TorchClassifier(AttributeNet(Vgg(), nnet(4096)), device, dtype_of(profile, device))
    count = 16 if device.type == "cpu" else 100
    x = torch.rand(count, 3, SIZE, SIZE, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(count, dtype=torch.int64, device=device)
    with FlopCounterMode(display=False) as flops:
        step(classifier, x, y, settings)
    operations = flops.get_total_flops() / count
    each = best({"step": lambda: step(classifier, x, y, settings)}, device, 2)["step"] / count
    with tempfile.TemporaryDirectory() as folder:
        spawn(_reduce, (folder,), 2)
        took: float = torch.load(f"{folder}/took.pt")

    gradient, batches = 4 * (3 * SIZE * SIZE + 1), math.ceil(TRAIN / settings.batch_size)
    steps = batches * settings.inner_steps * settings.epochs
    on_gpu = each if device.type == "cuda" else operations / (SHARE * PEAK)
    rows = [
        Measured("scale", "VGG-16, fit step, a picture", 1000 * each, "ms"),
        Measured("scale", "VGG-16, fit step, a picture", operations / 1e9, "GFLOP"),
        Measured("scale", "VGG-16, this machine", operations / each / 1e9, "GFLOP/s"),
        Measured("scale", "N's gradient", gradient / 1e6, "MB"),
        Measured("scale", "all-reduce of it, two processes here", 1000 * took, "ms"),
        Measured("scale", "steps of the paper's fit", steps, "steps"),
        Measured("scale", "this machine, reckoned", each * settings.batch_size * steps / 3600, "h"),
    ]
    for gpus in GPUS:
        part = math.ceil(settings.batch_size / gpus)
        reduce = 0.0 if gpus == 1 else LATENCY + 2 * (gpus - 1) / gpus * gradient / LINK
        fetch = 0.0 if gpus == 1 else part * 3 * SIZE**2 / BUS / settings.inner_steps
        whole = part * on_gpu + reduce + fetch
        where = f"{gpus} GPU{'s' if gpus > 1 else ''}, reckoned"
        rows.append(Measured("scale", f"{where}: step", 1000 * whole, "ms"))
        rows.append(Measured("scale", f"{where}: all-reduce's share of it", 100 * reduce / whole, "%"))
        rows.append(Measured("scale", f"{where}: fit", whole * steps / 60, "min"))
    return rows


if __name__ == "__main__":
    run(measure, __doc__ or "")
