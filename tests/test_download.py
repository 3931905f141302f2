"""The downloads: whole files or none, over every kind of bad connection, and nothing written outside the goal."""

import bz2
import hashlib
import io
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import faces_on_disk
import numpy as np
import pytest
from file_server import PAGE, FileServer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dftlib.cli import download as command
from dftlib.datasets import download, load_dataset, sources
from dftlib.errors import DataError
from dftlib.models import dlib_face, vggface

OUTSIDE = f"{tempfile.gettempdir()}/kit-evil"  # that no archive may write
BLOB = np.random.default_rng(0).bytes(400_000)  # several pieces, and no archive


def tar(members: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o6666  # rights that no picture needs
            file.addfile(info, io.BytesIO(content))
        for info in more:
            file.addfile(info)
    return packed.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return packed.getvalue()


def below(root: Path, pattern: str = "**/*") -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.glob(pattern)) if p.is_file()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 0.5))
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def faces(tmp_path: Path, server: FileServer) -> Path:
    """Small sets in the layouts of the real ones; the server has them packed, under the names of the table."""
    root = faces_on_disk.muct(faces_on_disk.celeba(faces_on_disk.lfw(tmp_path / "faces")))
    pictures = below(root / "muct", "jpg/*")
    server.files |= {p.name: p.read_bytes() for p in root.glob("*/*.txt")} | {
        "lfw-funneled.tgz": tar({f"lfw_funneled/{n}": c for n, c in below(root / "lfw" / "lfw-deepfunneled").items()}),
        "img_align_celeba.zip": zipped(below(root / "celeba", "img_align_celeba/*")),
        "vgg_face_dag.pth": BLOB,
        f"{sources.DLIB_FILE}.bz2": bz2.compress(BLOB),
    }
    for i, camera in enumerate("abcde"):
        server.files[f"muct-{camera}-jpg-v1.tar.gz"] = tar(dict(list(pictures.items())[i::5]))
    return root


@pytest.fixture
def served(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The table with its files at the server, and the hashes of what the server has where the real files have one."""

    def wire() -> None:
        for name, source in sources.SOURCES.items():
            files = tuple(
                replace(
                    file,
                    url=f"{server.url}/{file.name}",
                    hash=file.hash and f"md5:{hashlib.md5(server.files.get(file.name, b'')).hexdigest()}",
                    content=file.content and f"sha256:{hashlib.sha256(BLOB).hexdigest()}",
                )
                for file in source.files
            )
            monkeypatch.setitem(sources.SOURCES, name, replace(source, files=files))

    return wire


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "to"


@pytest.fixture(params=["hash published", "no hash published"])
def one(
    request: pytest.FixtureRequest, server: FileServer, to: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, bytes]]:
    """Calls the command for one data set of one plain file, BLOB; gives its exit status, and the file or nothing."""
    server.files["blob"] = BLOB
    known = f"md5:{hashlib.md5(BLOB).hexdigest()}" if request.param == "hash published" else ""
    file = sources.File("blob", "set/blob", f"{server.url}/blob", known)
    monkeypatch.setitem(sources.SOURCES, "muct", replace(sources.SOURCES["muct"], files=(file,)))

    def call(*faults: str) -> tuple[int, bytes]:
        server.faults = list(faults)
        status = run("muct", to=to)
        return status, (to / "set" / "blob").read_bytes() if (to / "set" / "blob").exists() else b""

    return call


def run(*names: str, to: Path, accept: bool = True) -> int:
    return command.main([*names, "--to", str(to), *["--accept-licences"] * accept])


def test_every_set_is_read_as_if_fetched_by_hand(
    faces: Path, served: Callable[[], None], server: FileServer, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served()
    assert run("lfw", "celeba", "muct", "vggface", to=to) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"make reproduce PROFILE=small DATA={to}\n" in said.out
    assert said.out.endswith(f"-p weights {to / 'vgg_face_dag.pth'}\n")
    assert said.out.count("no hash is published for it") == 7
    for name in ("lfw", "celeba", "muct"):
        ours, theirs = (load_dataset(name, root, size=16) for root in (to, faces))
        assert (ours.images == theirs.images).all()
        assert ours.labels.equals(theirs.labels)
    assert below(to / "muct", "jpg/*") == below(faces / "muct", "jpg/*")
    assert not [p for p in to.rglob("*.jpg") if p.stat().st_mode & 0o7022]
    assert not list(to.rglob(".*"))
    assert not [p for p in to.rglob("*") if p.suffix in (".gz", ".tgz", ".zip")]
    digest = hashlib.sha256(BLOB).hexdigest()
    assert (to / "vgg_face_dag.pth.sha256").read_text() == f"{digest}\n"
    assert digest in said.out

    before, asked = below(to), len(server.asked)
    assert run("lfw", "celeba", "muct", "vggface", to=to, accept=False) == 0
    assert len(server.asked) == asked
    assert below(to) == before
    assert capsys.readouterr().out.count("is there already") == 7


def test_the_noted_hash_is_the_one_that_the_weights_are_checked_by(
    faces: Path,
    served: Callable[[], None],
    to: Path,
    server: FileServer,
    vggface_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 30.0))  # the server hashes 60 MB first
    server.files["vgg_face_dag.pth"] = vggface_file.read_bytes()
    served()
    assert run("vggface", to=to) == 0
    weights = to / "vgg_face_dag.pth"
    vggface.VGGFace(weights)
    with weights.open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="changed since its first use"):
        vggface.VGGFace(weights)


def test_a_cut_or_slow_answer_is_gone_on_with(one: Callable[..., tuple[int, bytes]], server: FileServer) -> None:
    """From the byte where it stopped, or a piece before, so that hardly more than the file is sent."""
    begin = time.monotonic()
    assert one("cut", "stall", "cut") == (0, BLOB)
    assert time.monotonic() - begin < 20
    starts = [int(asked.range.removeprefix("bytes=").removesuffix("-") or 0) for asked in server.asked]
    assert len(starts) == 4
    assert starts == sorted(set(starts))
    assert starts[1] > len(BLOB) // 2 - 2 * download.PIECE
    assert server.sent <= len(BLOB) + 3 * download.PIECE
    tag = f'"{hashlib.md5(BLOB).hexdigest()}"'
    assert [asked.if_range for asked in server.asked] == ["", tag, tag, tag]
    assert {asked.encoding for asked in server.asked} == {"identity"}


def test_a_call_goes_on_where_the_last_gave_up(one: Callable[..., tuple[int, bytes]], server: FileServer, to: Path) -> None:
    assert one("cut", *["500"] * 9) == (1, b"")
    assert len(server.asked) == 1 + len(download.WAITS)
    assert one() == (0, BLOB)
    assert server.asked[-1].range.startswith("bytes=")
    assert server.sent <= len(BLOB) + download.PIECE


def test_tries_that_bring_something_are_not_counted(one: Callable[..., tuple[int, bytes]], server: FileServer) -> None:
    assert one(*["cut", "500", "500"] * 2) == (0, BLOB)
    assert len(server.asked) == 7


def test_a_server_without_ranges_sends_all_again(one: Callable[..., tuple[int, bytes]], server: FileServer) -> None:
    server.ranges = False
    assert one("cut") == (0, BLOB)
    assert [bool(asked.range) for asked in server.asked] == [False, True]


def test_a_server_without_ranges_that_always_cuts_ends_the_call(
    one: Callable[..., tuple[int, bytes]], server: FileServer
) -> None:
    server.ranges = False
    assert one(*["cut"] * 99) == (1, b"")
    assert len(server.asked) == 1 + len(download.WAITS)


@pytest.mark.parametrize("version", ["ETag", "weak", "Last-Modified"])
def test_a_file_that_changed_is_fetched_anew(one: Callable[..., tuple[int, bytes]], server: FileServer, version: str) -> None:
    """Two versions are never joined."""
    server.version = version
    server.files["blob"] = BLOB[::-1]
    assert one("cut", *["503"] * 9) == (1, b"")
    server.files["blob"] = BLOB
    assert one() == (0, BLOB)
    assert server.asked[-1].range
    assert server.asked[-1].if_range
    assert not server.asked[-1].if_range.startswith("W/")


def test_without_a_version_only_a_hash_lets_it_go_on(one: Callable[..., tuple[int, bytes]], server: FileServer) -> None:
    server.version = ""
    assert one("cut") == (0, BLOB)
    assert bool(server.asked[1].range) == bool(sources.SOURCES["muct"].files[0].hash)
    assert not server.asked[1].if_range


@pytest.mark.parametrize("fault", ["416", "shift"])
def test_a_range_that_isnt_had_begins_anew(one: Callable[..., tuple[int, bytes]], server: FileServer, fault: str) -> None:
    assert one("cut", fault) == (0, BLOB)
    assert [bool(asked.range) for asked in server.asked] == [False, True, False]


def test_a_wrong_hash_leaves_no_file(
    one: Callable[..., tuple[int, bytes]], server: FileServer, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not sources.SOURCES["muct"].files[0].hash:  # the first download sets the standard
        assert one() == (0, BLOB)
        (to / "set" / "blob").rename(to / "old")
        server.sent = 0
    capsys.readouterr()
    for fault in ("flip", "end"):
        assert one(fault) == (1, b"")
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "hasn't the" in said
        assert "web page" in said
        assert "fetch blob by hand from github.com/StephenMilborrow/muct to" in said
        assert not [
            p for p in to.rglob("*") if p.is_file() and p.suffix not in (".txt", ".sha256", ".version") and p.name != "old"
        ]
    assert one() == (0, BLOB)
    assert not server.asked[-1].range


@pytest.mark.parametrize(("fault", "words"), [("404", "(status 404)"), ("403", "(status 403)"), ("page", "(a web page came")])
def test_what_no_later_try_mends_ends_the_call_at_once(
    one: Callable[..., tuple[int, bytes]],
    server: FileServer,
    to: Path,
    fault: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one sentence, and without loss of what came before."""
    assert one("cut", fault) == (1, b"")
    assert len(server.asked) == 2
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert said[-1].endswith(f"by hand from github.com/StephenMilborrow/muct to {to / 'set'}.")
    assert one() == (0, BLOB)
    assert server.asked[-1].range


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_a_passing_fault_is_tried_again(one: Callable[..., tuple[int, bytes]], status: str) -> None:
    assert one(status, status) == (0, BLOB)


def test_without_network_one_sentence_says_what_to_do(
    server: FileServer, served: Callable[[], None], to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served()
    server.shutdown()
    server.server_close()
    assert run("celeba", to=to) == 1
    *tries, said, _, last = capsys.readouterr().err.splitlines()
    assert len(tries) == 9
    assert said.startswith("celeba did not come: list_attr_celeba.txt can't be had")
    assert "(no connection, or a slow or cut one)" in said
    assert "fetch list_attr_celeba.txt, list_eval_partition.txt, img_align_celeba.zip (to be unpacked) by hand from mmlab" in said
    assert said.endswith(f"CelebA.html or www.kaggle.com/datasets/jessicali9530/celeba-dataset to {to / 'celeba'}.")
    assert last.startswith("celeba did not come: img_align_celeba.zip can't be had")


def test_what_cant_be_had_keeps_nothing_else_from_being_fetched(
    faces: Path, served: Callable[[], None], server: FileServer, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last lines say what came and what did not; a later call fetches the rest alone."""
    served()
    kept = {name: server.files.pop(name) for name in ("lfw_attributes.txt", "list_eval_partition.txt")}
    assert run("lfw", "celeba", "muct", "vggface", to=to) == 1
    said = capsys.readouterr()
    first, second = said.err.splitlines()[-2:]
    assert first.startswith("lfw did not come: lfw_attributes.txt can't be had from")
    assert f"fetch lfw_attributes.txt, lfw-funneled.tgz (to be unpacked) by hand from {sources.PUBFIG}, {sources.LFW}" in first
    assert "www.kaggle.com/datasets/jessicali9530/lfw-dataset" in first
    assert second.startswith("celeba did not come: list_eval_partition.txt can't be had from")
    assert said.out.splitlines()[-2].startswith(f"muct: in {to}.")
    assert said.out.splitlines()[-1].startswith(f"vggface: in {to}.")
    assert (to / "lfw" / "lfw_funneled").is_dir()
    assert (to / "celeba" / "img_align_celeba").is_dir()
    assert (to / "muct" / "jpg").is_dir()
    server.files |= kept
    asked = len(server.asked)
    assert run("lfw", "celeba", "muct", "vggface", to=to) == 0
    assert {one.name for one in server.asked[asked:]} == set(kept)
    assert capsys.readouterr().out.splitlines()[-2].startswith(f"lfw, celeba, muct: in {to}.")


def test_deep_funneled_pictures_that_are_there_suffice(
    faces: Path, served: Callable[[], None], server: FileServer, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served()
    (to / "lfw" / "lfw-deepfunneled").mkdir(parents=True)
    assert run("lfw", to=to) == 0
    assert [asked.name for asked in server.asked] == ["lfw_attributes.txt"]
    assert f"{to / 'lfw' / 'lfw-deepfunneled'} is there, so lfw_funneled isn't fetched." in capsys.readouterr().out


def test_dlibs_network_is_unpacked_and_compared(
    faces: Path,
    served: Callable[[], None],
    server: FileServer,
    to: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody is asked for terms, as there are none; the hash is that of the unpacked file."""
    served()
    name = f"{sources.DLIB_FILE}.bz2"
    whole = server.files[name]
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for damaged, words in {
        bz2.compress(BLOB[:-1]): "hasn't the published hash",
        whole[:-20]: "can't be unpacked",
        PAGE: "can't be unpacked",
    }.items():
        server.files[name] = damaged
        assert run("dlib_face", to=to, accept=False) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert words in said
        assert said.endswith(f"by hand from dlib.net/files to {to}.")
        assert not (to / sources.DLIB_FILE).exists()
    server.files[name] = whole
    assert run("dlib_face", to=to, accept=False) == 0
    assert (to / sources.DLIB_FILE).read_bytes() == BLOB
    assert sorted(p.name for p in to.iterdir()) == [sources.DLIB_FILE]
    assert capsys.readouterr().out.endswith(
        f"Use it in a notebook of profile 'identity' with -p weights {to}/{sources.DLIB_FILE}\n"
    )


def test_dlibs_network_is_the_one_that_the_backbone_reads() -> None:
    (file,) = sources.SOURCES["dlib_face"].files
    assert (file.goal, file.content) == (dlib_face.FILE, f"sha256:{dlib_face.SHA256}")


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(server: FileServer, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["blob"] = BLOB
    source = replace(sources.SOURCES["muct"], files=(sources.File("blob", "set/blob", f"{server.url}/blob"),))
    monkeypatch.setitem(sources.SOURCES, "muct", source)
    program = f"""
from dftlib.cli.download import main
from dftlib.datasets import sources
from dftlib.datasets.sources import File, Source
sources.SOURCES["muct"] = {source!r}
main(["muct", "--to", {str(to)!r}, "--accept-licences"])
"""
    server.faults = ["stall"]
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(download.__file__).parents[2]) as process:
        part = to / "set" / ".blob.unfinished" / "blob.part"
        assert server.stalling.wait(60)
        while not part.is_file() or part.stat().st_size < len(BLOB) // 2 - download.PIECE:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (to / "set" / "blob").exists()
    kept = part.stat().st_size
    assert run("muct", to=to, accept=False) == 0
    assert (to / "set" / "blob").read_bytes() == BLOB
    assert [asked.range for asked in server.asked] == ["", f"bytes={kept}-"]
    assert not (to / "set" / ".blob.unfinished").exists()


def test_a_killed_unpacking_leaves_nothing_that_looks_whole(
    faces: Path, served: Callable[[], None], server: FileServer, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archives that came are kept; what was unpacked of them isn't."""
    served()
    real, left = tarfile.TarFile.extract, [True] * 9

    def dies(*arguments: Any, **more: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        real(*arguments, **more)

    monkeypatch.setattr(tarfile.TarFile, "extract", dies)
    assert run("muct", to=to) == 130
    assert not (to / "muct" / "jpg").exists()
    assert not list(to.rglob("*.sha256"))
    unpacked = to / "muct" / ".jpg.unfinished" / "unpacked" / "jpg"
    assert len(list(unpacked.iterdir())) == 9
    (unpacked / "i999qa-fn.jpg").write_bytes(b"half")
    monkeypatch.setattr(tarfile.TarFile, "extract", real)
    assert run("muct", to=to) == 0
    assert len(server.asked) == 5
    assert below(to / "muct", "jpg/*") == below(faces / "muct", "jpg/*")
    assert not list(to.rglob(".*"))


def special(kind: bytes, target: str = "") -> bytes:
    info = tarfile.TarInfo("jpg/special")
    info.type, info.linkname = kind, target
    return tar({"jpg/i000qa-fn.jpg": b"x"}, info)


EVIL = {
    "up.tar.gz": tar({"jpg/../../evil": b"x"}),
    "up within.tar.gz": tar({"jpg/../jpg/evil": b"x"}),
    "absolute.tar.gz": tar({OUTSIDE: b"x"}),
    "backslash.tar.gz": tar({"jpg\\..\\..\\evil": b"x"}),
    "symlink.tar.gz": special(tarfile.SYMTYPE, "../../../evil"),
    "symlink absolute.tar.gz": special(tarfile.SYMTYPE, "/tmp"),
    "hard link.tar.gz": special(tarfile.LNKTYPE, "/etc/hostname"),
    "device.tar.gz": special(tarfile.CHRTYPE),
    "pipe.tar.gz": special(tarfile.FIFOTYPE),
    "up.zip": zipped({"jpg/../../evil": b"x"}),
    "absolute.zip": zipped({OUTSIDE: b"x"}),
    "drive.zip": zipped({"C:/evil": b"x"}),
    "half.tar.gz": tar({"jpg/i000qa-fn.jpg": BLOB})[:200_000],
    "half.zip": zipped({"jpg/i000qa-fn.jpg": BLOB})[:200_000],
    "page.tar.gz": PAGE,
    "page.zip": PAGE,
    "empty.tar.gz": b"",
    "other folder.tar.gz": tar({"jpeg/i000qa-fn.jpg": b"x"}),
    "file.tar.gz": tar({"jpg": b"x"}),
}


@pytest.mark.parametrize("name", EVIL)
def test_a_damaged_or_malicious_archive_leaves_nothing(
    name: str, server: FileServer, tmp_path: Path, to: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is deleted, nothing outside the folder where it is unpacked is written, and a good one in its place works."""
    file = sources.File(name, "muct/jpg", f"{server.url}/{name.replace(' ', '-')}")
    server.files[name.replace(" ", "-")] = EVIL[name]
    monkeypatch.setitem(sources.SOURCES, "muct", replace(sources.SOURCES["muct"], files=(file,)))
    assert run("muct", to=to) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"muct did not come: {name} can't be unpacked (")
    assert said.count("\n") == 1
    assert {p.parts[0] for p in (p.relative_to(to) for p in to.rglob("*"))} == {"muct", download.ACCEPTED}
    assert [p.name for p in (to / "muct").iterdir()] == [".jpg.unfinished"]
    assert [p.name for p in tmp_path.iterdir()] == ["to"]
    assert not Path(OUTSIDE).exists()
    assert not (to / "muct" / ".jpg.unfinished" / name).exists()

    server.files[name.replace(" ", "-")] = (zipped if name.endswith("zip") else tar)({"jpg/i000qa-fn.jpg": b"good"})
    assert run("muct", to=to) == 0
    assert below(to / "muct" / "jpg") == {"i000qa-fn.jpg": b"good"}


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("jpg/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/tmp")
    with pytest.raises(ValueError, match="jpg/link"):
        download.unpack(tmp_path / "a.zip", tmp_path / "out")


PIECES = st.sampled_from(["..", ".", "", "a", "b", "out", "~", "C:", "...", "..\\..", "\\", " ..", "é"])
NAMES = st.one_of(
    st.lists(PIECES, min_size=1, max_size=5).map("/".join),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)


@settings(max_examples=150)
@given(st.lists(NAMES, min_size=1, max_size=3), st.booleans())
@example(["a", "a/b"], True)
def test_whatever_its_members_are_called_an_archive_stays_within_its_folder(names: list[str], as_zip: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "x").mkdir()
        # every third name aims at a place that exists, and is absolute
        members = {(f"{root}/{n}" if i == 2 else n): b"x" for i, n in enumerate(names)}
        archive = root / ("a.zip" if as_zip else "a.tar")
        archive.write_bytes(zipped(members) if as_zip else tar(members))
        before = {p for p in root.rglob("*") if not p.is_relative_to(root / "x" / "out")}
        try:
            download.unpack(archive, root / "x" / "out")
        except (ValueError, tarfile.TarError, OSError):
            pass
        else:
            assert not any(n.startswith("/") or ".." in n.split("/") for n in members)
        assert {p for p in root.rglob("*") if not p.is_relative_to(root / "x" / "out")} == before
        assert not [p for p in root.rglob("*") if p.is_symlink()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_terms_are_asked_for_once(
    faces: Path,
    served: Callable[[], None],
    server: FileServer,
    to: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served()
    for answers, sentence in {
        "no\n": "the terms of lfw aren't accepted",
        "": "the terms of lfw aren't accepted",
        "yes\nmaybe\n": "the terms of muct aren't accepted",
    }.items():
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        assert run("lfw", "muct", to=to, accept=False) == 2
        said = capsys.readouterr()
        assert sentence in said.err
        assert said.err.startswith("Nothing was fetched")
        assert "research on face verification" in said.out
        assert "Do you accept? [yes/no]" in said.out
    assert server.asked == []
    monkeypatch.setattr(sys, "stdin", Terminal("YES\n"))
    assert run("lfw", "muct", to=to, accept=False) == 0
    assert capsys.readouterr().out.count("Do you accept?") == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run("lfw", "muct", to=to, accept=False) == 0
    assert "Do you accept?" not in capsys.readouterr().out


def test_without_a_terminal_the_option_is_named(
    to: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: FileServer
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert run("celeba", to=to, accept=False) == 2
    said = capsys.readouterr()
    assert "non-commercial research only" in said.out
    assert said.err == "Without a terminal nobody can accept the terms of celeba: read them and add --accept-licences.\n"
    assert not to.exists()


def test_a_full_disk_is_said_in_one_sentence_and_gone_on_from(
    one: Callable[..., tuple[int, bytes]], server: FileServer, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(BLOB) // 2, hard))
        assert one() == (2, b"")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert said.endswith("make room and call again.\n")
    assert said.count("\n") == 1
    assert one() == (0, BLOB)
    assert server.asked[-1].range == f"bytes={len(BLOB) // 2}-"


def test_a_folder_that_cant_be_written_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run("muct", to=tmp_path / "file" / "to") == 2
    assert capsys.readouterr().err.endswith("name another place.\n")


def test_debug_lets_the_fault_out(to: Path) -> None:
    with pytest.raises(DataError, match="accept-licences"):
        command.main(["muct", "--to", str(to), "--debug"])


def test_an_unknown_name_is_refused(to: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("lfww", to=to)
    assert end.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_of_two_calls_one_waits_and_finds_what_the_other_fetched(
    one: Callable[..., tuple[int, bytes]], server: FileServer
) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(one, "stall") for _ in range(2)]
    assert [call.result() for call in both] == [(0, BLOB)] * 2
    assert server.sent < 2 * len(BLOB)
