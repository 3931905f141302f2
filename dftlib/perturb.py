"""Adds a saved perturbation to every picture of a folder.

    python -m dftlib.perturb --perturbation p.safetensors --in photos --out photos-tuned

Every picture below the folder is written to the same place below the new one, its name with .png behind it: a.jpg becomes
a.jpg.png. It keeps its size: the perturbation, fitted to whole pictures resized to its own size, is stretched to the
picture's (bicubic), because the classifier resizes the picture anyway. What leaves is RGB, 8 bits, PNG (JPEG would change
what was added), turned as the EXIF orientation says; transparency, further frames and all metadata, colour profiles
among them, are dropped. A second call goes on where a killed one was, and redoes pictures that changed since.
Exit status: 0 all done, 1 some pictures can't be read, 2 nothing can be done.
"""

import dataclasses
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dftlib.command import guarded, parser
from dftlib.config import DataError
from dftlib.datasets.decode import read_picture
from dftlib.datasets.folder import is_picture
from dftlib.perturbation import Perturbation
from dftlib.progress import tqdm
from dftlib.store import whole

MARK = "perturbation.sha256"  # in the output folder: whose pictures these are
SHOWN = 5  # skipped files named in the closing line


def perturbed(perturbation: Perturbation, picture: Image.Image) -> Image.Image:
    """The RGB picture with the perturbation added, stretched to the picture's size if it has another."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    # antialias matters where the picture is smaller than N; at N's own size N stays as it is, bit for bit
    n = F.interpolate(perturbation.n[None], size=x.shape[2:], mode="bicubic", antialias=True)[0]
    z = dataclasses.replace(perturbation, n=n).apply_uint8(x)[0]
    return Image.fromarray(z.permute(1, 2, 0).numpy())


def perturb_folder(path: Path, source: Path, out: Path) -> list[str]:
    """Writes `out`/a.jpg.png for every `source`/a.jpg, and prints a closing line; returns what is wrong with unreadable ones.

    Raises `DataError` where `path` is no perturbation of colour pictures, `source` is no folder or holds no picture, or
    `out` is in `source` or holds anything but pictures of the same perturbation.
    """
    perturbation = Perturbation.load(path)
    if len(perturbation.n) != 3:
        raise DataError(f"{path} is for pictures of {len(perturbation.n)} channels, not 3: name one fitted to colour pictures.")
    if not source.is_dir():
        raise DataError(f"{source} is no folder: name the folder that holds the pictures.")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} is in {source}: name an output folder outside, or its pictures would be perturbed again.")
    files = sorted(p for p in source.rglob("*") if p.is_file())
    pictures = [p for p in files if is_picture(p)]
    skipped = [str(p.relative_to(source)) for p in files if not is_picture(p)]
    if not pictures:
        raise DataError(f"{source} holds no picture: name a folder with files such as .jpg or .png.")
    _claim(out, hashlib.sha256(path.read_bytes()).hexdigest())

    one_at_a_time = Lock()  # torch has threads of its own, and needs 20 times the memory of a photo

    def work(picture: Path) -> str:
        target = out / picture.relative_to(source)
        target = target.with_name(f"{target.name}.png")
        if target.is_file() and target.stat().st_mtime_ns >= picture.stat().st_mtime_ns:
            return ""
        try:
            read = read_picture(picture)
        except DataError as error:
            return str(error)
        with one_at_a_time:
            made = perturbed(perturbation, read)
        with whole(target) as temporary:
            made.save(temporary)
        return ""

    with ThreadPoolExecutor() as pool:
        said = list(tqdm(pool.map(work, pictures), total=len(pictures), desc="perturb", unit="picture"))
    wrong = [w for w in said if w]
    print(f"{len(pictures) - len(wrong)} of {len(pictures)} pictures are in {out}{_left_out(skipped)}.")
    return wrong


def _claim(out: Path, digest: str) -> None:
    """Marks the folder as that of one perturbation, unless it is another's."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a new folder.")
    mark = out / MARK
    if mark.is_file() and mark.read_text(errors="replace").strip() == digest:
        return
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds files that aren't of this perturbation: name a new or empty folder.")
    with whole(mark) as temporary:
        temporary.write_text(f"{digest}\n")


def _left_out(skipped: list[str]) -> str:
    if not skipped:
        return ""
    more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    return f"; skipped, as no picture by their names: {', '.join(skipped[:SHOWN])}{more}"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("dftlib.perturb", __doc__)
    options.add_argument("--perturbation", type=Path, required=True, help="file that Perturbation.save wrote", metavar="FILE")
    options.add_argument("--in", type=Path, required=True, help="folder of pictures, read with its sub-folders", metavar="FOLDER")
    options.add_argument("--out", type=Path, required=True, help="new, empty, or begun with this perturbation", metavar="FOLDER")
    given = vars(options.parse_args(argv))

    def work() -> int:
        wrong = perturb_folder(given["perturbation"], given["in"], given["out"])
        for message in wrong:
            print(message, file=sys.stderr)
        return int(bool(wrong))

    return guarded(work, given["debug"])


if __name__ == "__main__":
    sys.exit(main())
