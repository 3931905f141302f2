"""The command `dft`, or `python -m dftlib`: each of its commands is a module here, imported only when it is called."""

import io
import sys
from importlib import import_module

import dftlib
from dftlib.paths import keep_to_cache

COMMANDS = {
    "tune": ("fit a perturbation to your own images and a classifier that only answers, and report what it does",
             "dft tune --images photos --labels labels.csv --model model.onnx --budget 4000 --out tuned"),
    "perturb": ("add a fitted perturbation to every image of a folder",
                "dft perturb --perturbation tuned/perturbation.safetensors --in photos --out photos-tuned"),
    "download": ("fetch the data sets LFW, CelebA and MUCT and the weights of VGGFace and dlib, once you accept their terms",
                 "dft download lfw celeba muct --to faces"),
    "fit": ("fit the perturbation of one cell of the paper's tables, in one process or many",
            "dft fit --data webcam --model studio --attribute Gender --out n.safetensors"),
    "run": ("execute one of the kit's notebooks with a profile's parameters",
            "dft run notebooks/03_inter_dataset.ipynb --out out.ipynb -f notebooks/profiles/demo.yaml"),
    "glance": ("draw eight synthetic faces before and after, within a minute",
               "dft glance"),
}  # fmt: skip


def overview() -> str:
    """What `dft --help` prints: each command in a line, with an example."""
    commands = "\n".join(f"  {name:10}{what}\n{'':12}{example}" for name, (what, example) in COMMANDS.items())
    return f"""usage: dft COMMAND …

Data fine-tuning: one perturbation, added to all images, with which a classifier that nobody may change gets more of them right.

{commands}

`dft COMMAND --help` tells its options; with --debug it shows where a fault arose. `dft --version` tells the version."""


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that its encoding lacks
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(dftlib.__version__)
        return 0
    if name not in COMMANDS:
        print(f"There is no command '{name}': choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    keep_to_cache()
    try:
        status: int = import_module(f"dftlib.cli.{name}").main(rest)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dftlib"):
            raise
        print(f"`dft {name}` needs the package {error.name}: call pip install 'dftlib[kit,blackbox]'.", file=sys.stderr)
        return 2
    return status
