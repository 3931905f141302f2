"""Fetches the three data sets and two networks' weights from where they are to be had, in the layouts that the kit reads.

Nothing is fetched before its terms were accepted. What an ended call leaves is in a folder `.GOAL.unfinished` beside the goal,
and the next call goes on from there; a goal gets its own name only when it's whole.
"""

import bz2
import shutil
import stat
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PureWindowsPath

import pooch
import requests

from dftlib.artefacts import once, whole
from dftlib.datasets.sources import SOURCES, File, Source
from dftlib.errors import DataError
from dftlib.progress import tqdm

TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of an answer
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before another try; they begin anew with every try that brought something
PIECE = 1 << 16  # bytes; at most so many are lost when an answer is cut
PASSING = (408, 429, *range(500, 600))  # status codes that a later try may not meet again
ACCEPTED = "accepted_terms.txt"  # in DIR: whose terms were accepted
pooch.get_logger().setLevel("WARNING")  # it would advise to write each hash into the code


def download(names: Iterable[str], to: Path, agreed: bool = False) -> list[str]:
    """Fetches what isn't there yet of the `names` of `SOURCES`, and prints what it does, and at the end what came and its use.

    agreed: accept all terms without asking
    Returns a sentence for each file or folder that did not come, as it can't be had, is another than the published one (or, if no
    hash is published, than the first that came), or came in an archive that is damaged or unsafe; the others are fetched.
    Raises `DataError` where terms aren't accepted: then nothing is fetched.
    """
    to = to.resolve()
    sources = {name: SOURCES[name] for name in names}
    for name, source in sources.items():
        _accept(name, source, to / ACCEPTED, agreed)
    missing = []
    for name, source in sources.items():
        for goal in dict.fromkeys(file.goal for file in source.files):
            try:
                with once(to / goal):  # of two calls one waits, and finds what the other fetched
                    _obtain(to, goal, [file for file in source.files if file.goal == goal], _by_hand(source, to))
            except DataError as error:
                missing.append((name, f"{name} did not come: {error}"))
    came = [name for name in sources if name not in dict(missing)]
    if sets := ", ".join(name for name in came if not sources[name].use):
        print(f"{sets}: in {to}. With lfw, celeba and muct there: make reproduce PROFILE=small DATA={to}")
    for name in came:
        if use := sources[name].use:
            print(f"{name}: in {to}. Use it {use.format(to=to)}")
    return [sentence for _, sentence in missing]


def _accept(name: str, source: Source, note: Path, agreed: bool) -> None:
    """Asks once; the answer yes is remembered in `note`."""
    print(f"{source.title}. {source.terms} The terms stand at {source.stated}.")
    accepted = note.read_text("utf-8").split() if note.is_file() else []
    if name in accepted or not source.asks:
        return
    if not agreed:
        if not sys.stdin.isatty():
            raise DataError(f"Without a terminal nobody can accept the terms of {name}: read them and add --accept-licences.")
        print("Do you accept? [yes/no] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("yes", "y"):
            raise DataError(f"Nothing was fetched, as the terms of {name} aren't accepted: accept them, or leave {name} out.")
    with whole(note) as temporary:
        temporary.write_text("\n".join([*accepted, name, ""]), "utf-8")


def _by_hand(source: Source, to: Path) -> str:
    missing = [file for file in source.files if not ((to / file.goal).exists() or _needless(file, to))]
    names = ", ".join(file.name + " (to be unpacked)" * file.packed for file in missing)
    return f"fetch {names} by hand from {source.by_hand} to {(to / source.files[0].goal).parent}"


def _needless(file: File, to: Path) -> bool:
    return bool(file.unless) and (to / file.unless).exists()


def _obtain(to: Path, name: str, files: list[File], by_hand: str) -> None:
    goal = to / name
    work = goal.with_name(f".{goal.name}.unfinished")
    if _needless(files[0], to):
        print(f"{to / files[0].unless} is there, so {goal.name} isn't fetched.")
    elif goal.exists():
        print(f"{goal} is there already and isn't fetched again: take it away to have it anew.")
    else:
        work.mkdir(parents=True, exist_ok=True)
        fetched = {goal.with_name(f"{file.name}.sha256"): file for file in files}
        paths = [_fetch(file, work, pin, by_hand) for pin, file in fetched.items()]
        made = _unpacked(paths, work / "unpacked" / goal.name, files[0].content, by_hand) if files[0].packed else paths[0]
        for path, (pin, file) in zip(paths, fetched.items(), strict=True):
            if not (file.hash or file.content):  # noted only now: a damaged archive must not become the standard
                found = pooch.file_hash(path)
                print(f"{file.name}: no hash is published for it; its SHA-256, {found}, is in {pin}, to check later downloads.")
                with whole(pin) as temporary:
                    temporary.write_text(f"{found}\n", "utf-8")
        made.rename(goal)
    shutil.rmtree(work, ignore_errors=True)


def _fetch(file: File, work: Path, pin: Path, by_hand: str) -> Path:
    known = file.hash or (f"sha256:{pin.read_text('utf-8').strip()}" if pin.is_file() else None)
    downloader = partial(resume, part=work / f"{file.name}.part", checked=known is not None)
    try:
        return Path(pooch.retrieve(file.url, known, file.name, work, downloader=downloader))
    except (requests.RequestException, ValueError) as error:
        if not isinstance(error, requests.RequestException):  # pooch's way to say that the hash is wrong
            whose = "the published hash" if file.hash else f"the hash in {pin}, to be deleted if you want the new file"
            reason = f"what came, damaged or a web page perhaps, hasn't {whose}, and was deleted"
        elif error.response is None:
            reason = "no connection, or a slow or cut one"
        else:
            reason = f"status {error.response.status_code}" if not error.response.ok else "a web page came in its place"
        raise DataError(
            f"{file.name} can't be had from {file.url} ({reason}): call again, tomorrow if a quota is over, or {by_hand}."
        ) from error


def resume(url: str, output_file: str, _: object, *, part: Path, checked: bool) -> None:
    """A downloader for pooch, which has none that goes on: `part` grows, over several answers and calls, to `output_file`.

    checked: the hash will be compared, so that a file can go on even where the server says nothing about its version
    Raises `requests.RequestException` after several tries in a row that brought nothing, or at once where none can help.
    """
    most, waits = _size(part), iter(WAITS)
    while True:
        try:
            _go_on(url, part, checked)
            break
        except requests.RequestException as error:
            if _size(part) > most:
                most, waits = _size(part), iter(WAITS)
            lasting = error.response is not None and error.response.status_code not in PASSING
            if lasting or (wait := next(waits, None)) is None:
                raise
            print(f"{part.stem}: no answer, or not all of it; trying again in {wait:g} s.", file=sys.stderr)
            time.sleep(wait)
    part.replace(output_file)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _go_on(url: str, part: Path, checked: bool) -> None:
    """One answer, from where `part` ends if the server still has the same version, else from the beginning."""
    note, start = part.with_suffix(".version"), _size(part)
    version = note.read_text("utf-8") if note.is_file() else ""
    headers = {"Accept-Encoding": "identity"}  # compressed on the way, a byte of the answer is no byte of the file
    if start and (version or checked):
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version} if version else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if answer.status_code in (206, 416) and not goes_on:
            part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"{url} has no byte {start}")
        answer.raise_for_status()
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.HTTPError("a web page", response=answer)
        with part.open("ab" if goes_on else "wb") as file:
            if not goes_on:
                start, tag = 0, answer.headers.get("ETag", "")
                # a weak tag may stand for other bytes
                note.write_text(tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", ""), "utf-8")
            total = start + int(answer.headers.get("Content-Length", 0)) or None
            with tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True) as bar:
                for piece in answer.iter_content(PIECE):
                    bar.update(file.write(piece))


def _unpacked(archives: list[Path], made: Path, content: str, by_hand: str) -> Path:
    """The folder `made`, or the file with this hash, unpacked from all archives; one that is damaged or unsafe is deleted, for
    `DataError`."""
    shutil.rmtree(made.parent, ignore_errors=True)
    for archive in archives:
        try:
            unpack(archive, made.parent)
            if content and f"sha256:{pooch.file_hash(made)}" != content:
                raise ValueError(f"its {made.name} hasn't the published hash")
            if not content and not made.is_dir():
                raise ValueError(f"it has no folder {made.name}")
        except Exception as error:  # the readers raise whatever a damaged archive makes them stumble over
            if isinstance(error, OSError) and error.errno:
                raise
            archive.unlink()
            raise DataError(f"{archive.name} can't be unpacked ({error}) and was deleted: call again, or {by_hand}.") from error
    return made


def unpack(archive: Path, out: Path) -> None:
    """Unpacks a .zip, any tar, or one file in .bz2 into `out`.

    Anything but a file or folder within it raises `ValueError` or tarfile's own.
    """
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in tqdm(packed.infolist(), archive.name, unit="file"):
                _check(info.filename, stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR))
                packed.extract(info, out)
    elif archive.suffixes[-2:] == [".dat", ".bz2"]:
        out.mkdir(parents=True, exist_ok=True)
        with bz2.open(archive) as packed_file, (out / archive.stem).open("wb") as file:
            for piece in tqdm(iter(partial(packed_file.read, PIECE), b""), archive.name, unit="piece"):
                file.write(piece)
    else:
        with tarfile.open(archive, "r|*") as stream:
            for member in tqdm(stream, archive.name, unit="file"):
                _check(member.name, member.isreg() or member.isdir())
                stream.extract(member, out, filter="data")


def _check(name: str, plain: bool) -> None:
    path = PureWindowsPath(name)  # knows both slashes, and drives
    if path.anchor or ".." in path.parts or not plain:
        raise ValueError(f"it holds {name!r}, which is no file or folder within it")
