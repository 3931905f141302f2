"""The command that perturbs a folder: the right bytes in the right places, and a status that tells how it went."""

import os
import subprocess
import sys
from pathlib import Path

import faces_on_disk
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dftlib.cli import perturb
from dftlib.cli.common import STOPPED
from dftlib.errors import DataError
from dftlib.perturbation import folder
from dftlib.perturbation.perturbation import Perturbation

W, H = 12, 16


def pixels(path: Path) -> Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def saved(path: Path, seed: int = 0, box: str = "atanh") -> Perturbation:
    made = Perturbation(0.3 * torch.randn(3, H, W, generator=torch.Generator().manual_seed(seed)), box)
    made.save(path)
    return made


@pytest.fixture
def n(tmp_path: Path) -> Perturbation:
    return saved(tmp_path / "p.safetensors")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.jpg and a.png beside each other, and one picture two folders down, all of the perturbation's size."""
    for i, file in enumerate(("a.jpg", "a.png", "x/y/b.JPG")):
        faces_on_disk.noise(tmp_path / "photos" / file, W, H, i)
    return tmp_path / "photos"


def run(photos: Path, *more: str, out: str = "out") -> int:
    folder = photos.parent
    named = ("--perturbation", str(folder / "p.safetensors"), "--in", str(photos), "--out", str(folder / out))
    return perturb.main([*named, *more])


def written(photos: Path) -> list[str]:
    out = photos.parent / "out"
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())


@pytest.mark.parametrize("box", ["atanh", "clip"])
def test_every_picture_gets_the_perturbation(photos: Path, box: str, capsys: pytest.CaptureFixture[str]) -> None:
    n = saved(photos.parent / "p.safetensors", box=box)
    assert run(photos) == 0
    assert written(photos) == ["a.jpg.png", "a.png.png", folder.MARK, "x/y/b.JPG.png"]
    for file in ("a.jpg", "a.png", "x/y/b.JPG"):
        assert torch.equal(pixels(photos.parent / "out" / f"{file}.png"), n.apply_uint8(pixels(photos / file)[None])[0])
    assert capsys.readouterr().out == f"3 of 3 pictures are in {photos.parent / 'out'}.\n"


@pytest.mark.parametrize("size", [(5 * W, 4 * H), (7, 9)])
def test_a_photo_of_another_size_keeps_it(photos: Path, n: Perturbation, size: tuple[int, int]) -> None:
    """N is stretched as Pillow's bicubic filter would, to a grey level."""
    faces_on_disk.noise(photos / "other.png", *size)
    assert run(photos) == 0
    channels = [np.asarray(Image.fromarray(c.numpy()).resize(size, Image.Resampling.BICUBIC)) for c in n.n]
    wanted = Perturbation(torch.from_numpy(np.stack(channels))).apply_uint8(pixels(photos / "other.png")[None])[0]
    found = pixels(photos.parent / "out" / "other.png.png")
    assert found.shape == wanted.shape
    assert (found.int() - wanted.int()).abs().max() <= 1


def test_pictures_of_every_kind_leave_as_plain_rgb(photos: Path, n: Perturbation) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (H, W), (9, 99, 199)).save(photos / "phone.jpg", exif=exif, icc_profile=b"profile", comment=b"here")
    Image.new("RGBA", (W, H), (9, 99, 199, 50)).save(photos / "clear.png")
    Image.new("L", (1, 1), 7).save(photos / "grey.gif")
    assert run(photos) == 0
    for file, size in {"phone.jpg": (W, H), "clear.png": (W, H), "grey.gif": (1, 1)}.items():
        with Image.open(photos.parent / "out" / f"{file}.png") as picture:
            assert (picture.format, picture.mode, picture.size, picture.info) == ("PNG", "RGB", size, {})
            assert not picture.getexif()
    wanted = n.apply_uint8(torch.tensor([9, 99, 199], dtype=torch.uint8)[None, :, None, None].expand(1, 3, H, W))[0]
    assert torch.equal(pixels(photos.parent / "out" / "clear.png.png"), wanted)


def test_an_unreadable_picture_stops_no_other(photos: Path, n: Perturbation, capsys: pytest.CaptureFixture[str]) -> None:
    faces_on_disk.truncate(photos / "a.jpg")
    assert run(photos) == 1
    said = capsys.readouterr()
    assert "2 of 3 pictures are in" in said.out
    assert said.err.startswith(f"{photos / 'a.jpg'} can't be read")
    assert written(photos) == ["a.png.png", folder.MARK, "x/y/b.JPG.png"]
    faces_on_disk.noise(photos / "a.jpg", W, H)
    assert run(photos) == 0


def test_other_files_are_skipped_and_named(photos: Path, n: Perturbation, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "x" / "notes.txt").write_text("seen")
    assert run(photos) == 0
    assert capsys.readouterr().out.endswith("out; skipped, as no picture by their names: x/notes.txt.\n")
    for i in range(6):
        (photos / f"{i}.heic").touch()
    run(photos)
    assert capsys.readouterr().out.endswith(": 0.heic, 1.heic, 2.heic, 3.heic, 4.heic and 2 more.\n")


def test_a_killed_run_goes_on(photos: Path, n: Perturbation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run makes what the first didn't, and a picture that changed since; no half-written file is left."""
    monkeypatch.setattr(folder, "ThreadPoolExecutor", lambda: _InTurn())
    made: list[Image.Image] = []
    real = folder.perturbed

    def dies_at_the_second(perturbation: Perturbation, picture: Image.Image) -> Image.Image:
        if made:
            raise KeyboardInterrupt
        made.append(picture)
        return real(perturbation, picture)

    monkeypatch.setattr(folder, "perturbed", dies_at_the_second)
    assert run(photos) == STOPPED
    assert written(photos) == ["a.jpg.png", folder.MARK]
    first = (photos.parent / "out" / "a.jpg.png").stat()

    monkeypatch.setattr(folder, "perturbed", real)
    assert run(photos) == 0
    assert written(photos) == ["a.jpg.png", "a.png.png", folder.MARK, "x/y/b.JPG.png"]
    assert (photos.parent / "out" / "a.jpg.png").stat() == first

    faces_on_disk.noise(photos / "a.jpg", W, H, seed=99)
    os.utime(photos / "a.jpg", ns=(first.st_mtime_ns + 1,) * 2)
    assert run(photos) == 0
    assert torch.equal(pixels(photos.parent / "out" / "a.jpg.png"), n.apply_uint8(pixels(photos / "a.jpg")[None])[0])


class _InTurn:
    """A pool of no threads."""

    map = staticmethod(map)

    def __enter__(self) -> "_InTurn":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_an_output_folder_is_of_one_perturbation(photos: Path, n: Perturbation, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(photos) == 0
    saved(photos.parent / "p.safetensors", seed=1)
    before = (photos.parent / "out" / "a.jpg.png").read_bytes()
    assert run(photos) == 2
    assert "out holds files that aren't of this perturbation: name a new or empty folder." in capsys.readouterr().err
    assert (photos.parent / "out" / "a.jpg.png").read_bytes() == before
    (photos.parent / "other").mkdir()
    assert run(photos, out="other") == 0


def test_what_cant_be_done_is_said_in_one_sentence(
    photos: Path, n: Perturbation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(words: str, source: Path = photos, out: str = "out") -> None:
        assert run(source, out=out) == 2
        assert words in (error := capsys.readouterr().err)
        assert error.count("\n") == 1

    for inside in ("photos", "photos/out", "photos/../photos/x"):
        says("name an output folder outside", out=inside)
    (tmp_path / "file").touch()
    says("file is a file: name a new folder", out="file")
    says("file/below can't be read or written (Not a directory)", out="file/below")
    says("is no folder: name the folder that holds the pictures", source=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    says("holds no picture", source=tmp_path / "empty")
    (tmp_path / "p.safetensors").write_bytes((photos / "a.jpg").read_bytes())
    says("is not a saved perturbation")
    (tmp_path / "p.safetensors").unlink()
    says("is not a saved perturbation")
    save_file({"n": torch.zeros(1, H, W)}, tmp_path / "p.safetensors", {"perturbation": '{"box": "clip", "about": {}}'})
    says("is for pictures of 1 channels, not 3")
    with pytest.raises(DataError, match="1 channels"):
        run(photos, "--debug")
    assert not (tmp_path / "out").exists()


def test_as_a_command(photos: Path, n: Perturbation) -> None:
    def call(perturbation: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dftlib", "perturb", "--perturbation", perturbation, "--in", "photos", "--out", "out"]
        return subprocess.run(command, cwd=photos.parent, capture_output=True, text=True)

    done, refused = call("p.safetensors"), call("photos/a.jpg")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 of 3 pictures are in out.\n", "")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("photos/a.jpg is not a saved perturbation")
    assert "Traceback" not in refused.stderr
