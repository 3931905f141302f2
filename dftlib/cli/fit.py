"""Fits the perturbation of one cell of the paper's tables, over as many processes as torchrun starts.

    torchrun --nproc-per-node=2 -m dftlib fit --data webcam --model studio --attribute Gender --out n.safetensors
    torchrun --nproc-per-node=8 -m dftlib fit --profile paper -p data_root /data --data celeba --model lfw --attribute Gender …

Every process takes its part of each batch, on a GPU of its own where there are GPUs; all must see the same cache folder
(DFT_CACHE). The fit stays in the cache, where the notebooks find it, and a killed one goes on after its last finished epoch.
Without torchrun it is one process. Exit status: 0 done, 2 bad input.
"""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dftlib.cli.common import guarded, parser, value
from dftlib.datasets import require_two_classes
from dftlib.errors import DataError
from dftlib.experiments.cards import carded
from dftlib.experiments.lab import Lab
from dftlib.experiments.outcome import Cell
from dftlib.experiments.profile import device_of, load_profile
from dftlib.perturbation.perturbation import Perturbation, require_free

PATIENCE = timedelta(hours=12)  # that a process waits for the first one, which may have a backbone's features to compute


def fit(name: str, overrides: dict[str, object], data: str, model: str, attribute: str) -> Perturbation:
    """The perturbation for images of `data` under the classifier trained on `model`, the same in every process; its card is
    whole in the first.

    `name` and `overrides` are a profile and what differs from it. Raises `DataError` for a data set or an attribute that
    the profile doesn't have, and for all that the notebooks complain of.
    """
    profile = load_profile(name, **overrides)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device_of(profile).type == "cuda" else "gloo", timeout=PATIENCE)
    several = dist.is_initialized()
    rank = dist.get_rank() if several else 0
    if several and device_of(profile).type == "cuda":
        profile = replace(profile, device=f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(profile.device)
    for wanted in (data, model):
        if wanted not in profile.datasets:
            raise DataError(f"Profile '{name}' has no data set '{wanted}': choose one of {', '.join(profile.datasets)}.")
    lab, cell = Lab(profile), Cell(0, attribute, data, model, profile.protocols[0], profile.seeds[0])
    if attribute not in (known := lab.faces(data, cell.protocol).labels.columns):
        raise DataError(f"'{data}' has no attribute '{attribute}': choose one of {', '.join(known)}.")
    require_two_classes(lab.faces(data, cell.protocol), attribute)
    if rank:
        dist.barrier()
    lab.model(cell)  # trained by the first process, read by the others
    if several and not rank:
        dist.barrier()
    return lab.fitted(cell) if rank else carded(lab, cell)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("fit", __doc__)
    options.add_argument("--profile", default="demo", help="of notebooks/profiles (default: demo)")
    options.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="overrides a parameter")
    options.add_argument("--data", required=True, help="data set whose images are changed")
    options.add_argument("--model", required=True, help="data set that the classifier was trained on")
    options.add_argument("--attribute", required=True)
    options.add_argument("--out", type=Path, required=True, help="file to write, and .png and .md beside it", metavar="FILE")
    given = options.parse_args(argv)
    first = os.environ.get("RANK", "0") == "0"

    def work() -> int:
        require_free(given.out)  # before a fit that takes minutes
        found = fit(given.profile, {name: value(text) for name, text in given.p}, given.data, given.model, given.attribute)
        if first:
            found.save(given.out)
            best, history = found.about["epoch"], found.about["history"]
            shares = [found.about["start"], *(h["val_accuracy"] for h in history)]
            print(
                f"{given.out}: {100 * shares[best]:.1f} % of the validation images right, {100 * shares[0]:.1f} % without N "
                f"(round {best} of {len(history)})."
            )
        if dist.is_initialized():
            dist.barrier()  # gloo aborts in a process whose neighbour has already hung up
        return 0

    try:
        return guarded(work, given.debug, quiet=not first)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
