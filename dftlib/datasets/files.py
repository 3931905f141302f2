"""Which files a folder holds, those of linked folders too, and which of its pictures the names of a list mean."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from dftlib.errors import DataError

SHOWN = 5  # names in a sentence
HEIC = (".heic", ".heif")  # pictures, though Pillow reads them with a package of their own only


def is_picture(path: Path) -> bool:
    """Whether the ending is that of a kind of picture that Pillow knows, or of HEIC; hidden files are none."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    # Pillow's endings also name documents and films
    known = Image.MIME.get(kind, "").startswith("image/") or path.suffix.lower() in HEIC
    return known and not path.name.startswith(".")


def named(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@dataclass(frozen=True)
class Below:
    """What a folder holds, at any depth.

    files:   names within the folder, with slashes, sorted
    circles: links to a folder that they stand in, which aren't followed
    unread:  folders that can't be looked into, broken links and the like, each with the reason in brackets
    folders: where the folder and all that was looked into really are
    """

    files: list[str] = field(default_factory=list)
    circles: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)


def below(folder: Path) -> Below:
    """Looks into every folder below `folder`, and into linked ones."""
    found = Below()

    def look(at: Path, within: str, above: tuple[Path, ...]) -> None:
        here = at.resolve()
        if here in above:
            found.circles.append(within)
            return
        found.folders.add(here)
        try:
            entries = sorted(os.scandir(at), key=lambda entry: entry.name)
        except OSError as error:
            found.unread.append(f"{within} ({error.strerror})")
            return
        for entry in entries:
            name = f"{within}/{entry.name}" if within else entry.name
            if os.path.isdir(entry.path):  # of a link to itself, DirEntry's own raises
                look(at / entry.name, name, (*above, here))
            elif os.path.isfile(entry.path):
                found.files.append(name)
            else:
                found.unread.append(f"{name} ({'a broken link' if entry.is_symlink() else 'no plain file'})")

    look(folder, "", ())
    found.files.sort()
    return found


def located(folder: Path, names: Sequence[str], listed: str = "the label file", lines: Sequence[int] = ()) -> list[str]:
    """What the pictures of these names are called below the folder, one file for each name.

    A name that isn't there as it stands may mean a picture whose name differs in case, slashes or how its accents are composed,
    has no ending in the list, another one (000001.png for 000001.jpg), or one more (a.jpg.png for a.jpg, as `dft perturb`
    names it). Where none or several would fit, or one fits several names, `DataError` counts the names and tells the first.

    listed: who names them;  lines: where, for the message
    """
    found = [name if os.path.isfile(os.path.join(folder, name)) else "" for name in names]
    if not all(found):
        same, shorter = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for file in below(folder).files:
            if is_picture(Path(file)):
                same[_plain(file)].append(file)
                shorter[_bare(_plain(file))].append(file)
        exact, guesses = set(found), {}
        for i, name in enumerate(map(_plain, names)):
            other = shorter.get(_bare(name), []) if is_picture(Path(name)) else []
            fitting = same.get(name) or shorter.get(name) or other
            if not found[i] and len(fitting) == 1 and fitting[0] not in exact:
                guesses[i] = fitting[0]
        often = Counter(guesses.values())
        for i, file in guesses.items():
            found[i] = file if often[file] == 1 else ""
    if missing := [i for i, file in enumerate(found) if not file]:
        first, where = names[missing[0]], f" (line {lines[missing[0]]})" if len(lines) else ""
        shorter_by = ("/".join(first.split("/")[k:]) for k in range(1, first.count("/") + 1))
        known = next((name for name in shorter_by if os.path.isfile(os.path.join(folder, name))), "")
        remedy = f"write it as it is below that folder, {known}" if known else "put them there, or take their lines out"
        raise DataError(
            f"{len(missing)} of the {len(names)} pictures that {listed} names aren't in {folder}, the first is {first}{where}: "
            f"{remedy}."
        )
    return found


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()


def _bare(name: str) -> str:
    return os.path.splitext(name)[0]
