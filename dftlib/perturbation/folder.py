"""A saved perturbation added to every image of a folder."""

import errno
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dftlib.artefacts import whole
from dftlib.datasets import align
from dftlib.datasets.decode import read_picture
from dftlib.datasets.files import below, is_picture, named
from dftlib.errors import DataError
from dftlib.perturbation import card
from dftlib.perturbation.perturbation import Perturbation
from dftlib.progress import tqdm

# In the output folder: the perturbation's digest, then for each picture written its name and the digest of what it was made of.
MARK = "perturbation.sha256"
ROWS = 256  # of a picture that are float at once: a camera's would fill the memory


def perturbed(perturbation: Perturbation, picture: Image.Image) -> Image.Image:
    """The RGB picture with the perturbation added, stretched to the picture's size if it has another."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    # antialias matters where the picture is smaller than N; at N's own size N stays as it is, bit for bit
    n = F.interpolate(perturbation.n[None], size=x.shape[2:], mode="bicubic", antialias=True)[0]
    strips = zip(x.split(ROWS, 2), n.split(ROWS, 1), strict=True)
    z = torch.cat([perturbation.with_n(part).apply_uint8(rows)[0] for rows, part in strips], 1)
    return Image.fromarray(z.permute(1, 2, 0).numpy())


def perturb_folder(path: Path, source: Path, out: Path) -> list[str]:
    """Writes `out`/a.jpg.png for every `source`/a.jpg, and prints a closing line; returns what is wrong with those left out.

    Linked folders are looked into. A picture that is there already is made again only if the one it comes from has changed.
    Pictures of another size are left out, unless the perturbation was fitted to resized ones; where it was fitted to aligned
    faces, what is written is the face of each picture, aligned alike, and pictures without one are left out. Prints the first
    lines of the card too, and on stderr whether the pictures' levels are far from those it was fitted on.
    Raises `DataError` where `path` is no perturbation of colour pictures, `source` is no folder or holds no picture, or
    `out` is in `source` or holds anything but pictures of the same perturbation.
    """
    perturbation = Perturbation.load(path)
    if len(perturbation.n) != 3:
        raise DataError(f"{path} is for pictures of {len(perturbation.n)} channels, not 3: name one fitted to colour pictures.")
    if not source.is_dir():
        raise DataError(f"{source} is no folder: name the folder that holds the pictures.")
    there = below(source)
    if not there.folders.isdisjoint((out.resolve(), *out.resolve().parents)):
        raise DataError(f"{out} is in {source}: name an output folder outside, or its pictures would be perturbed again.")
    pictures = [file for file in there.files if is_picture(Path(file))]
    if not pictures:
        raise DataError(f"{source} holds no picture: name a folder with files such as .jpg or .png.")
    made = _claim(out, hashlib.sha256(path.read_bytes()).hexdigest())
    for line in card.head(perturbation.about):
        print(line)
    size, padding = (perturbation.n.shape[2], perturbation.n.shape[1]), perturbation.about.get("aligned")
    seen: list[dict[str, list[float]]] = []
    one_at_a_time = Lock()  # torch has threads of its own, and needs 20 times the memory of a photo

    def work(file: str) -> str:
        target = out / f"{file}.png"
        try:
            digest = hashlib.sha256((source / file).read_bytes()).hexdigest()
            if made.get(file) == digest and target.is_file():
                return ""
            read = read_picture(source / file)
        except (DataError, OSError) as error:
            return str(error) if isinstance(error, DataError) else f"{source / file} can't be read ({error.strerror})."
        if isinstance(padding, float):
            if (face := align.face(np.asarray(read), size[0], padding)) is None:
                remedy = "leave it out, or cut it closer around the face"
                return f"{source / file} shows no face that dlib's detector finds: {remedy}."
            read = Image.fromarray(face)
        if read.size != size and not perturbation.about.get("resized"):
            found, wanted = (" x ".join(map(str, pixels)) for pixels in (read.size, size))
            return f"{source / file} is {found} pixels, not {wanted}: cut and resize it as the pictures of the fit were."
        with one_at_a_time:
            picture = perturbed(perturbation, read)
            seen.append(card.levels(np.array(read.resize(size)).transpose(2, 0, 1)[None]))
        try:
            with whole(target) as temporary:
                picture.save(temporary)
        except OSError as error:
            remedies = {
                errno.ENAMETOOLONG: "has too long a name for one with .png behind it: shorten it",
                **dict.fromkeys(
                    (errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
                    "with .png behind it has the name of a folder there, or stands in one: rename one of the two",
                ),
            }
            if error.errno not in remedies:
                raise
            return f"{source / file} {remedies[error.errno]}."
        with one_at_a_time, (out / MARK).open("a", encoding="utf-8") as notes:
            notes.write(f"\n{json.dumps([file, digest])}")
        return ""

    with ThreadPoolExecutor() as pool:
        wrong = list(filter(None, tqdm(pool.map(work, pictures), total=len(pictures), desc="perturb", unit="picture")))
    skipped = [file for file in there.files if not is_picture(Path(file))]
    parts = [f"{len(pictures) - len(wrong)} of {len(pictures)} pictures are in {out}"]
    parts += [f"skipped, as no picture by their names: {named(skipped)}"] * bool(skipped)
    parts += [f"not followed, as links back to a folder above: {named(there.circles)}"] * bool(there.circles)
    print(f"{'; '.join(parts)}.")
    if warning := card.far(seen, perturbation.about):
        print(warning, file=sys.stderr)
    return wrong + [f"{source / unread} is left out." for unread in there.unread]


def _claim(out: Path, digest: str) -> dict[str, str]:
    """Marks the folder as that of one perturbation, unless it is another's; the digest of what each picture was made of."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a new folder.")
    mark = out / MARK
    first, *lines = mark.read_text("utf-8", errors="replace").split("\n") if mark.is_file() else [""]
    if first.strip() != digest:
        if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):  # what a killed call left is hidden
            raise DataError(f"{out} holds files that aren't of this perturbation: name a new or empty folder.")
        with whole(mark) as temporary:
            temporary.write_text(digest, "utf-8")
        return {}
    made = {}
    for line in lines:
        with suppress(ValueError, TypeError):  # cut, of a run that was killed
            file, made[file] = json.loads(line)
    return made
