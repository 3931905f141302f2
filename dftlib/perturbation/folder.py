"""A saved perturbation added to every image of a folder."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dftlib.artefacts import whole
from dftlib.datasets.decode import read_picture
from dftlib.datasets.folder import is_picture
from dftlib.errors import DataError
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm

MARK = "perturbation.sha256"  # in the output folder: whose pictures these are
SHOWN = 5  # skipped files named in the closing line


def perturbed(perturbation: Perturbation, picture: Image.Image) -> Image.Image:
    """The RGB picture with the perturbation added, stretched to the picture's size if it has another."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    # antialias matters where the picture is smaller than N; at N's own size N stays as it is, bit for bit
    n = F.interpolate(perturbation.n[None], size=x.shape[2:], mode="bicubic", antialias=True)[0]
    z = perturbation.with_n(n).apply_uint8(x)[0]
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
