"""Tiny folders in the layouts of LFW, CelebA and MUCT, of noise: no picture shows anybody."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dftlib.datasets.base import ATTRIBUTES

# The order of the Columbia file, shortened to what tells the columns apart.
LFW_COLUMNS = (
    "Male",
    "Asian",
    "Eyeglasses",
    "Smiling",
    "Bushy Eyebrows",
    "Attractive Woman",
    "Pale Skin",
    "Wearing Lipstick",
    "Attractive Man",
)
LFW_PEOPLE = tuple(f"{first} {last}" for first in ("Ann", "Bo", "Cy", "Di") for last in ("O'Hara", "de la Cruz", "Yi"))


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)  # how such a file begins


def noise(path: Path, width: int, height: int, seed: int = 0) -> None:
    """A JPEG with a colour ramp under the noise, so that crop and channel order show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    pixels[..., 0] += np.linspace(0, 190, width, dtype=int)
    pixels[..., 2] += np.linspace(190, 0, height, dtype=int)[:, None]
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def lfw(root: Path, pictures_each: int = 3) -> Path:
    """36 pictures of 12 people, two people in three men; the scores are real numbers, as in the original file."""
    folder = root / "lfw"
    random = np.random.default_rng(1)
    lines = ["# a comment", "#\tperson\timagenum\t" + "\t".join(LFW_COLUMNS)]
    for p, person in enumerate(LFW_PEOPLE):
        for i in range(1, pictures_each + 1):
            name = person.replace(" ", "_")
            noise(folder / "lfw-deepfunneled" / name / f"{name}_{i:04d}.jpg", 125, 125, 10 * p + i)
            scores = random.normal(0, 2, len(LFW_COLUMNS))
            scores[0] = abs(scores[0]) * (1 if p % 3 else -1)
            lines.append("\t".join([person, str(i), *(f"{s:.6f}" for s in scores)]))
    (folder / "lfw_attributes.txt").write_text("\n".join(lines) + "\n")
    return root


def celeba(root: Path, count: int = 20, ends: str = "\r\n") -> Path:
    """`count` pictures; every second is male; the parts take turns 0 0 0 1 2."""
    folder = root / "celeba"
    columns = ["5_o_Clock_Shadow", *(a.replace(" ", "_") for a in reversed(ATTRIBUTES[1:])), "Male", "Young"]
    files = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    rows = []
    for i, file in enumerate(files):
        noise(folder / "img_align_celeba" / file, 89, 109, i)
        values = [" 1" if (i >> (c % 5)) % 2 else "-1" for c in range(len(columns))]
        values[columns.index("Male")] = "-1" if i % 2 else " 1"
        rows.append(" ".join([file, *values]))
    write(folder / "list_attr_celeba.txt", [str(count), " ".join(columns) + " ", *rows], ends)
    write(folder / "list_eval_partition.txt", [f"{f} {max(i % 5 - 2, 0)}" for i, f in enumerate(files)], ends)
    return root


def kaggle(root: Path) -> None:
    """Brings LFW's and CelebA's folders below `root` into the layout in which Kaggle has them."""
    for folder in (root / "lfw" / "lfw-deepfunneled", root / "celeba" / "img_align_celeba"):
        if folder.exists():
            inner = folder.rename(folder.with_name("inner"))
            folder.mkdir()
            inner.rename(folder / folder.name)
    for path, first in {"list_attr_celeba": 1, "list_eval_partition": 0}.items():
        text = (root / "celeba" / f"{path}.txt").read_text().splitlines()
        (root / "celeba" / f"{path}.txt").unlink()
        rows = [",".join(line.split()) for line in text[first:]]
        rows = [f"image_id,{rows[0]}", *rows[1:]] if first else ["image_id,partition", *rows]
        write(root / "celeba" / f"{path}.csv", rows)


def muct(root: Path, people: int = 10, width: int = 24, height: int = 32) -> Path:
    """Four pictures of each person, every second male, every fourth with glasses; one name has a digit for glasses."""
    for p in range(people):
        for i, camera in enumerate("abcd"):
            glasses = "2" if p == i == 0 else "ng"[p % 4 == 1]
            file = f"i{p:03d}q{camera}-{'mf'[p % 2]}{glasses}.jpg"
            noise(root / "muct" / "jpg" / file, width, height, 10 * p + i)
    return root


def write(path: Path, lines: Iterable[str], ends: str = "\n") -> None:
    path.write_bytes("".join(line + ends for line in lines).encode())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, number: int, old: str, new: str) -> None:
    """Replaces `old` by `new` once in line `number` (from 1) of a text file, whatever its line ends."""
    lines = path.read_bytes().split(b"\n")
    assert old.encode() in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old.encode(), new.encode(), 1)
    path.write_bytes(b"\n".join(lines))
