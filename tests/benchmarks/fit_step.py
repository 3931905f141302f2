"""What a step of a fit costs above one forward and backward pass to the picture, and what bfloat16 saves and changes.

    python tests/benchmarks/fit_step.py [--batch 250] [--repeats 4] [--steps 4]

Every row is measured once a round, and the best of all rounds counts: other work on the machine slows all rows alike.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from timing import seconds
from torch import Tensor
from tqdm import tqdm

from dftlib import config
from dftlib.classifiers import TorchClassifier, to_float
from dftlib.config import load_profile
from dftlib.datasets import synthetic
from dftlib.experiments import settings_of
from dftlib.models import AttributeNet, DlibAge, nnet
from dftlib.perturbation import fit


def classifier(dtype: torch.dtype, device: torch.device) -> TorchClassifier:
    config.seed_all(0)
    return TorchClassifier(AttributeNet(DlibAge(), nnet(DlibAge.features)), device, dtype)


def floor(model: TorchClassifier, x: Tensor, y: Tensor, steps: int) -> None:
    """Nothing but the network, there and back."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model.logits(x), y)
        loss.backward()
        for p in model.net.parameters():
            p.grad = None


def main() -> None:
    options = argparse.ArgumentParser()
    for option, default in (("--batch", 250), ("--repeats", 4), ("--steps", 4)):
        options.add_argument(option, type=int, default=default)
    given = options.parse_args()
    device = config.device_of(load_profile("demo"))
    faces = synthetic.load("press", 64, seed=0, subjects=given.batch, per_subject=1)
    images, y = torch.from_numpy(faces.images), torch.from_numpy(faces.labels["Gender"].to_numpy().astype("int64"))
    x = to_float(images, device)
    exact, rough = classifier(torch.float32, device), classifier(torch.bfloat16, device)
    plain, thawed = classifier(torch.float32, device), classifier(torch.float32, device)
    plain.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    thawed.net.requires_grad_(True)

    def floor_of(model: TorchClassifier, batch: Tensor = x) -> float:
        return seconds(lambda: floor(model, batch, y.to(device), given.steps), device) / given.steps

    def step_of(model: TorchClassifier) -> float:
        """Steps of `fit` on one batch; the longer fit less the shorter leaves out validation and set-up."""

        def steps(count: int) -> float:
            settings = replace(settings_of(load_profile("demo")), batch_size=given.batch, inner_steps=count, epochs=1)
            return seconds(lambda: fit(model, images, y, images[:1], y[:1], settings), device)

        return (steps(given.steps + 1) - steps(1)) / given.steps

    rows: dict[str, Callable[[], float]] = {
        "floor, float32, contiguous": lambda: floor_of(plain, x.contiguous()),
        "floor, float32, channels-last": lambda: floor_of(exact),
        "floor, bfloat16, channels-last": lambda: floor_of(rough),
        "floor, float32, weights not frozen": lambda: floor_of(thawed),
        "fit step, float32": lambda: step_of(exact),
        "fit step, bfloat16": lambda: step_of(rough),
    }
    best = dict.fromkeys(rows, float("inf"))
    for _ in tqdm(range(given.repeats + 1), desc="rounds", disable=None):  # the first also warms up
        best = {name: min(best[name], work()) for name, work in rows.items()}
    print(f"DlibAge + NNET, {given.batch} pictures of 64 x 64, {device}, {torch.get_num_threads()} threads")
    base = best["floor, float32, channels-last"]
    for name, value in best.items():
        of = best["floor, bfloat16, channels-last" if "bfloat16" in name else "floor, float32, channels-last"]
        print(f"{name:<36}{1000 * value:9.1f} ms {value / base:7.2f} of float32's floor {value / of:7.2f} of its own")
    with torch.inference_mode():
        agree = (exact.logits(x).argmax(1) == rough.logits(x).argmax(1)).double().mean().item()
    print(f"pictures whose class bfloat16 leaves as it is: {100 * agree:.1f} %")


if __name__ == "__main__":
    main()
