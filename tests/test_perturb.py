"""The command that perturbs a folder: the right bytes in the right places, and a status that tells how it went."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import faces_on_disk
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dftlib.cli import perturb
from dftlib.cli.common import STOPPED
from dftlib.datasets import align, synthetic
from dftlib.errors import DataError
from dftlib.perturbation import folder
from dftlib.perturbation.perturbation import Perturbation

W, H = 12, 16


def pixels(path: Path) -> Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def saved(path: Path, seed: int = 0, box: str = "atanh", about: dict[str, Any] | None = None) -> Perturbation:
    n = 0.3 * torch.randn(3, H, W, generator=torch.Generator().manual_seed(seed))
    made = Perturbation(n, box, {"resized": True} if about is None else about)
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


def test_faces_are_aligned_as_those_of_the_fit_were(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written is the aligned face with N; a picture without a face is named and left out."""
    n = Perturbation(0.3 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)), "atanh", {"aligned": 0.2})
    n.save(photos.parent / "p.safetensors")
    faces = synthetic.draw("press", 8, 1, 64).pictures
    found = [align.face(face.permute(1, 2, 0).numpy(), 32, 0.2) for face in faces]
    (cut, face) = next((cut, face) for cut, face in zip(found, faces, strict=True) if cut is not None)
    Image.fromarray(face.permute(1, 2, 0).numpy()).save(photos / "face.png")
    assert run(photos) == 1
    assert written(photos) == ["face.png.png", folder.MARK]
    wanted = n.apply_uint8(torch.from_numpy(cut).permute(2, 0, 1)[None])[0]
    assert torch.equal(pixels(photos.parent / "out" / "face.png.png"), wanted)
    said = capsys.readouterr()
    assert "Added to: faces that dlib finds and aligns by five landmarks, with 20 % around." in said.out
    assert said.err.count("shows no face that dlib's detector finds: leave it out, or cut it closer around the face.") == 3


@pytest.mark.parametrize("size", [(5 * W, 4 * H), (7, 9), (8, 600)])
def test_a_photo_of_another_size_keeps_it(photos: Path, n: Perturbation, size: tuple[int, int]) -> None:
    """N is stretched as Pillow's bicubic filter would, to a grey level; in a tall picture too, which is changed in parts."""
    faces_on_disk.noise(photos / "other.png", *size)
    assert run(photos) == 0
    channels = [np.asarray(Image.fromarray(c.numpy()).resize(size, Image.Resampling.BICUBIC)) for c in n.n]
    wanted = Perturbation(torch.from_numpy(np.stack(channels))).apply_uint8(pixels(photos / "other.png")[None])[0]
    found = pixels(photos.parent / "out" / "other.png.png")
    assert found.shape == wanted.shape
    assert (found.int() - wanted.int()).abs().max() <= 1


def test_a_picture_of_another_size_is_left_out_unless_n_was_fitted_to_resized_ones(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A face that was cut out can't be told from a whole photo by anything but its size."""
    saved(photos.parent / "p.safetensors", about={})
    faces_on_disk.noise(photos / "other.png", H, W)
    assert run(photos) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"{photos / 'other.png'} is {H} x {W} pixels, not {W} x {H}: cut and resize it")
    assert said.err.count("\n") == 1
    assert "3 of 4 pictures are in" in said.out
    assert "other.png.png" not in written(photos)


def test_the_first_lines_of_the_card_are_shown(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on = {"images": 5, "per_class": [2, 3], "mean": [0.5] * 3, "std": [0.3] * 3}
    about = {"recommended": False, "why_not": "The gain is not clear of zero.", "fitted_on": on, "classifier": "m.onnx"}
    saved(photos.parent / "p.safetensors", about=about)
    assert run(photos) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "Not recommended: leave the images as they are. The gain is not clear of zero.",
        "Fitted on: 5 images (2 of class 0, 3 of class 1).",
        "For: m.onnx.",
    ]


@pytest.mark.parametrize(
    ("count", "mean", "std", "warned"),
    [
        (50, 0.4, 1.2, False),
        (50, 0.5, 1, True),
        (50, -0.5, 1, True),
        (50, 0, 1.3, True),
        (50, 0, 0.75, True),
        (49, 0.5, 1, False),
    ],
    ids=["alike", "darker", "paler", "flatter", "starker", "too few to tell"],
)
def test_pictures_far_from_those_of_the_fit_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, mean: float, std: float, warned: bool
) -> None:
    """One channel of the fit's pictures has another mean (by so many deviations), or another deviation (so many times)."""
    for i in range(count):
        faces_on_disk.noise(tmp_path / "photos" / f"{i}.png", W, H, i)
    levels = np.stack([pixels(tmp_path / "photos" / f"{i}.png").numpy() for i in range(count)]) / 255
    own_mean, own_std = levels.mean((0, 2, 3)), levels.std((0, 2, 3))
    on = {"images": 9, "per_class": [4, 5], "mean": own_mean.tolist(), "std": (own_std * [1, 1, std]).tolist()}
    on["mean"][1] += mean * own_std[1]
    saved(tmp_path / "p.safetensors", about={"fitted_on": on})
    assert run(tmp_path / "photos") == 0
    error = capsys.readouterr().err
    said = ", ".join(f"{255 * m:.0f} ± {255 * s:.0f}" for m, s in zip(own_mean, own_std, strict=True))
    assert (
        f"far from those that the perturbation was fitted on (grey levels of their channels: {said}; there: " in error
    ) == warned
    assert error.count("\n") == warned


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
        (photos / f"{i}.pdf").touch()
    run(photos)
    assert capsys.readouterr().out.endswith(": 0.pdf, 1.pdf, 2.pdf, 3.pdf, 4.pdf and 2 more.\n")


def test_linked_folders_are_perturbed_too_and_circles_are_told(
    photos: Path, n: Perturbation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        faces_on_disk.noise(tmp_path / "far" / f"{i}.jpg", W, H, i + 5)
    (photos / "linked").symlink_to(tmp_path / "far")
    (photos / "x" / "round").symlink_to(photos)
    assert run(photos) == 0
    assert [name for name in written(photos) if "linked" in name] == [f"linked/{i}.jpg.png" for i in range(3)]
    said = capsys.readouterr().out
    assert said == f"6 of 6 pictures are in {tmp_path / 'out'}; not followed, as links back to a folder above: x/round.\n"
    assert torch.equal(pixels(tmp_path / "out/linked/1.jpg.png"), n.apply_uint8(pixels(tmp_path / "far/1.jpg")[None])[0])


def test_what_cant_be_looked_into_is_said(photos: Path, n: Perturbation, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "gone").symlink_to("nowhere")
    assert run(photos) == 1
    said = capsys.readouterr()
    assert said.out.startswith("3 of 3 pictures are in")
    assert said.err == f"{photos / 'gone'} (a broken link) is left out.\n"


def test_a_long_name_is_written_and_one_too_long_stops_no_other(
    photos: Path, n: Perturbation, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system allows 255 bytes, and .png takes four of them."""
    long, longest, too_long = (f"{'x' * k}.png" for k in (242, 247, 248))
    for name in (long, longest, too_long):
        faces_on_disk.noise(photos / name, W, H)
    assert run(photos) == 1
    said = capsys.readouterr()
    assert "5 of 6 pictures are in" in said.out
    assert said.err == f"{photos / too_long} has too long a name for one with .png behind it: shorten it.\n"
    assert {f"{long}.png", f"{longest}.png"} < set(written(photos))


def test_a_name_that_collides_stops_no_other(photos: Path, n: Perturbation, capsys: pytest.CaptureFixture[str]) -> None:
    faces_on_disk.noise(photos / "z.png", W, H)
    faces_on_disk.noise(photos / "z.png.png" / "b.png", W, H)
    assert run(photos) == 1
    said = capsys.readouterr()
    assert "4 of 5 pictures are in" in said.out
    assert "with .png behind it has the name of a folder there, or stands in one: rename one of the two." in said.err


@pytest.mark.parametrize("left", [".DS_Store", ".part-a1b2"])
def test_hidden_files_make_no_folder_full(photos: Path, n: Perturbation, left: str) -> None:
    (photos.parent / "out").mkdir()
    (photos.parent / "out" / left).write_bytes(b"")
    assert run(photos) == 0


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_n_of_other_channels_has_its_picture_too(tmp_path: Path, channels: int) -> None:
    """In grey, one channel beside the other."""
    n = Perturbation(torch.randn(channels, H, W, generator=torch.Generator().manual_seed(0)))
    n.save(tmp_path / "n.safetensors")
    assert torch.equal(Perturbation.load(tmp_path / "n.safetensors").n, n.n)
    with Image.open(tmp_path / "n.png") as picture:
        assert (picture.mode, picture.size) == ("L", (channels * W, H))
        assert np.array_equal(np.asarray(picture), np.concatenate(list(n.picture().numpy()), 1))


def test_n_isnt_saved_over_by_its_picture(tmp_path: Path, n: Perturbation) -> None:
    for name, what in (("other.png", "picture"), ("other.md", "card")):
        with pytest.raises(DataError, match=rf"{name} is where N's {what} goes: name a file that ends in .safetensors"):
            n.save(tmp_path / name)
        assert not (tmp_path / name).exists()


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
    os.utime(photos / "a.jpg", (7, 7))
    assert run(photos) == 0
    assert torch.equal(pixels(photos.parent / "out" / "a.jpg.png"), n.apply_uint8(pixels(photos / "a.jpg")[None])[0])


def test_what_is_made_again_is_decided_by_content(photos: Path, n: Perturbation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another picture of the same name, size and time is; an old one that was touched isn't; the last content counts."""
    made: list[Image.Image] = []
    real = folder.perturbed

    def counted(perturbation: Perturbation, picture: Image.Image) -> Image.Image:
        made.append(picture)
        return real(perturbation, picture)

    monkeypatch.setattr(folder, "perturbed", counted)
    picture, wanted = photos / "a.png", photos.parent / "out" / "a.png.png"
    assert run(photos) == 0
    first, old = picture.read_bytes(), picture.stat()
    os.utime(photos / "a.jpg")
    for content, count in ((bytes(reversed(first)), 3), (None, 4), (first, 5), (first, 5)):
        if content is None:
            Image.new("RGB", (W, H), (9, 99, 199)).save(picture)
        else:
            picture.write_bytes(content)
        os.utime(picture, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert run(photos) == int(content == bytes(reversed(first)))
        assert len(made) == count
    assert torch.equal(pixels(wanted), n.apply_uint8(pixels(picture)[None])[0])
    wanted.unlink()
    assert run(photos) == 0
    assert wanted.is_file()
    with (photos.parent / "out" / folder.MARK).open("a") as notes:
        notes.write('\n["a.png", "0123')  # a line of a run that was killed
    assert run(photos) == 0
    assert len(made) == 6


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
