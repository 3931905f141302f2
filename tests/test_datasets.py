import logging
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import faces_on_disk
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dftlib.datasets import (
    ATTRIBUTES,
    SPLITS,
    FaceDataset,
    align,
    celeba,
    decode,
    lfw,
    load_attributes,
    load_dataset,
    muct,
    require_two_classes,
    splits,
    synthetic,
)
from dftlib.datasets.base import Faces
from dftlib.errors import DataError

FRAMES = {"lfw": lfw.FRAME, "celeba": celeba.FRAME, "muct": muct.FRAME}
DATA = os.environ.get("DFT_DATA", "")
real = pytest.mark.skipif(not DATA, reason="DFT_DATA names no folder with the real data sets")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "lfw": faces_on_disk.lfw,
    "celeba": faces_on_disk.celeba,
    "muct": faces_on_disk.muct,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for make in MAKERS.values():
        make(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(("name", "count"), [("lfw", 36), ("celeba", 20), ("muct", 40)])
@pytest.mark.parametrize("protocol", ["subject", "paper"])
def test_a_data_set_is_whole(root: Path, name: str, count: int, protocol: str) -> None:
    faces = load_dataset(name, root, size=16, protocol=protocol, seed=3)
    assert faces.name == name
    assert faces.images.shape == (count, 3, 16, 16)
    assert faces.images.dtype == np.uint8
    assert tuple(faces.labels) == ATTRIBUTES
    assert (faces.labels.dtypes == "int8").all()
    assert list(faces.labels.index) == list(range(count))
    assert faces.labels.isin([-1, 0, 1]).all(axis=None)
    assert set(faces.split) == set(SPLITS)
    assert len(faces.subjects) == len(faces.split) == len(set(faces.files)) == count
    if protocol == "subject":
        assert pd.Series(faces.split).groupby(faces.subjects).nunique().max() == 1


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("way", ["none", "crop"])
def test_pictures_are_cropped_and_in_rgb(root: Path, name: str, way: str) -> None:
    """The ramps of `faces_on_disk.noise`, red from left to right and blue from bottom to top, cut by the crop.

    Beyond a picture its edge goes on, and so does the end of the ramp.
    """
    faces = load_dataset(name, root, size=32, way=way)
    red, _, blue = faces.images.mean(0)
    left, top, right, bottom = FRAMES[name].crop if way == "crop" else FRAMES[name].picture
    at = np.array([0.5, 31.5]) / 32
    across, down = ((a + at * (b - a)).clip(0, 1) for a, b in ((left, right), (top, bottom)))
    np.testing.assert_allclose(red.mean(0)[[0, -1]], 30 + 190 * across, atol=6)
    np.testing.assert_allclose(blue.mean(1)[[0, -1]], 220 - 190 * down, atol=6)


@pytest.mark.parametrize("name", MAKERS)
def test_the_usual_crops_and_the_one_with_the_eyes_in_place_are_other_pictures(root: Path, name: str) -> None:
    ways = {way: load_dataset(name, root, size=16, way=way) for way in ("chip", "crop", "none")}
    assert (ways["chip"].images != ways["crop"].images).any()
    assert (ways["crop"].images != ways["none"].images).any() == (name != "lfw")  # LFW's crop is what the others are cut after
    assert (load_dataset(name, root, size=16).images == ways["chip"].images).all()
    for faces in ways.values():
        assert faces.faces is not None
        assert faces.faces.images is faces.images
        assert faces.faces.eyes.shape == (len(faces), 2, 2)
        assert faces.faces.detected.shape == (len(faces),)
        assert (faces.labels == ways["chip"].labels).all(axis=None)


def test_beyond_a_picture_its_edge_goes_on(tmp_path: Path) -> None:
    """Against the same box of a picture continued by hand and further, whose pixels the filter sees; one box for all or each."""
    random = np.random.default_rng(0)
    boxes = np.array([[-0.4, 0.1, 0.6, 0.9], [0.2, 0.3, 1.5, 1.1], [-0.2, -0.3, 1.3, 1.4], [0.1, 0.2, 0.9, 0.7]])
    files = [f"{i}.png" for i in range(4)]
    wanted = []
    for file, box in zip(files, boxes, strict=True):
        pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / file)
        wide = Image.fromarray(np.pad(pixels, ((60, 60), (60, 60), (0, 0)), "edge"))
        place = box * [40, 30, 40, 30] + 60
        wanted.append(np.asarray(wide.resize((12, 9), Image.Resampling.LANCZOS, box=tuple(place.tolist()))))
    found = decode.pictures("any", tmp_path, files, (9, 12), boxes).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found.astype(int), np.array(wanted, int), atol=3)
    np.testing.assert_array_equal(found[:, 3:6, 4:8], np.array(wanted)[:, 3:6, 4:8])
    for i in range(4):
        np.testing.assert_array_equal(decode.pictures("any", tmp_path, files, (9, 12), boxes[i])[i].transpose(1, 2, 0), found[i])
    Image.fromarray(np.full((30, 40, 3), 255, np.uint8)).save(tmp_path / files[0])
    assert decode.pictures("any", tmp_path, files[:1], (9, 12), boxes[2]).min() == 255


def test_a_signature_is_of_names_and_bytes_alone(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jpg", tmp_path / "b.jpg"
    a.write_bytes(b"first")
    b.write_bytes(b"other")
    first = decode.signature(tmp_path, ["a.jpg", "b.jpg"])
    os.utime(a, (7, 7))
    assert decode.signature(tmp_path, ["a.jpg", "b.jpg"]) == first
    assert decode.signature(tmp_path, ["b.jpg", "a.jpg"]) != first
    assert decode.signature(tmp_path, ["a.jpg"]) != first
    stat = a.stat()
    a.write_bytes(b"third")  # as long, and made to look as old
    os.utime(a, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert decode.signature(tmp_path, ["a.jpg", "b.jpg"]) != first
    a.write_bytes(b"other")
    b.write_bytes(b"first")
    swapped = decode.signature(tmp_path, ["b.jpg", "a.jpg"])
    assert swapped not in (first, decode.signature(tmp_path, ["a.jpg", "b.jpg"]))


def test_a_crop_doesnt_depend_on_the_size_of_the_picture(tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    pixels = np.random.default_rng(0).integers(0, 256, (109, 89, 3), np.uint8)
    Image.fromarray(pixels).save(small)
    Image.fromarray(pixels.repeat(2, 0).repeat(2, 1)).save(large)
    a, b = decode.pictures("any", tmp_path, ["small.png", "large.png"], 8, celeba.FRAME.picture).astype(int)
    assert abs(a - b).max() <= 12


def test_lfw_labels_are_the_signs_of_the_scores(tmp_path: Path) -> None:
    path = faces_on_disk.lfw(tmp_path) / "lfw" / "lfw_attributes.txt"
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    scores = pd.DataFrame(rows, columns=header[1:]).drop(columns="person").astype(float)
    table = lfw.parse(tmp_path)
    assert table.index[3] == "Ann_de_la_Cruz/Ann_de_la_Cruz_0001.jpg"
    assert (table["Gender"] == (scores["Male"] > 0).to_numpy()).all()
    either = (scores["Attractive Man"] > 0) | (scores["Attractive Woman"] > 0)
    assert (table["Attractive"] == either.to_numpy()).all()
    assert 0 < table["Attractive"].mean() < 1
    for attribute in ("Smiling", "Bushy Eyebrows", "Pale Skin", "Wearing Lipstick", "Eyeglasses"):
        assert (table[attribute] == (scores[attribute] > 0).to_numpy()).all()


def test_lfw_header_that_is_shifted_by_one(tmp_path: Path) -> None:
    names = faces_on_disk.LFW_COLUMNS
    row = ["1.5"] + ["-0.5"] * (len(names) - 1)
    rows = ["\t".join(["Some Body", str(i + 1), *row]) for i in range(1001)]
    path = tmp_path / "lfw" / "lfw_attributes.txt"
    path.parent.mkdir()
    head = "#\tperson\timagenum\t"
    faces_on_disk.write(path, ["#", head + "\t".join([names[-1], *names[:-1]]), *rows])
    with pytest.raises(DataError, match=r"0% of the pictures .*header doesn't fit"):
        lfw.parse(tmp_path)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_celeba_lists(tmp_path: Path, ends: str) -> None:
    table = celeba.parse(faces_on_disk.celeba(tmp_path, ends=ends))
    assert table.index[0] == "000001.jpg"
    assert table["Gender"].tolist() == [1, 0] * 10
    assert table["split"].tolist() == ["train", "train", "train", "val", "test"] * 4
    assert (table["subject"] == table.index).all()


def test_celeba_identities_are_used_where_they_are(tmp_path: Path) -> None:
    faces_on_disk.celeba(tmp_path)
    path = tmp_path / "celeba" / "identity_CelebA.txt"
    faces_on_disk.write(path, [f"{i:06d}.jpg {i % 7}" for i in range(20, 0, -1)])
    assert celeba.parse(tmp_path)["subject"].tolist() == [str(i % 7) for i in range(1, 21)]
    faces_on_disk.write(path, ["\ufeff000001.jpg 5"])
    with pytest.raises(DataError, match=r"identity_CelebA.txt doesn't list 000002.jpg"):
        celeba.parse(tmp_path)


def test_a_person_on_several_sides_of_celebas_partition_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Parts take turns 0 0 0 1 2: pictures 1 to 3 and 6 to 8 are in the first, and so on."""
    faces_on_disk.celeba(tmp_path)
    path = tmp_path / "celeba" / "identity_CelebA.txt"
    faces_on_disk.write(path, [f"{i:06d}.jpg {'train' if (i - 1) % 5 < 3 else i}" for i in range(1, 21)])
    celeba.parse(tmp_path)
    assert caplog.text == ""
    faces_on_disk.write(path, [f"{i:06d}.jpg {'eve' if i in (3, 4, 5) else i}" for i in range(1, 21)])
    assert len(celeba.parse(tmp_path)) == 20
    assert "1 of 18 people of" in caplog.text
    assert "such as eve, are on several sides of" in caplog.text


@pytest.fixture
def whole_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for faces, which is slow: where files are is tested."""

    def pictures(name: str, folder: Path, files: list[str], size: int, *_: object) -> Faces:
        images = decode.pictures(name, folder, files, size, (0.0, 0.0, 1.0, 1.0))
        return Faces(images, np.zeros((len(files), 2, 2)), np.ones(len(files), bool))

    monkeypatch.setattr(align, "pictures", pictures)


def alike(a: FaceDataset, b: FaceDataset) -> None:
    assert (a.images == b.images).all()
    assert a.labels.equals(b.labels)
    assert (a.split == b.split).all()
    assert (a.subjects == b.subjects).all()


def test_the_layouts_of_kaggle_are_the_same_sets(root: Path, whole_pictures: None) -> None:
    """A folder within one of its name, and lists as CSV."""
    names = ("lfw", "celeba")
    before = [load_dataset(name, root, size=16) for name in names]
    whole = load_attributes("celeba", root, (24, 16))
    faces_on_disk.kaggle(root)
    for name, faces in zip(names, before, strict=True):
        alike(load_dataset(name, root, size=16), faces)
    alike(load_attributes("celeba", root, (24, 16)), whole)
    faces_on_disk.edit(root / "celeba" / "list_attr_celeba.csv", 3, "000002.jpg,", "000002.jpg,1,")
    with pytest.raises(DataError, match=r"Line 3 of .*list_attr_celeba.csv has 11 columns, not 10"):
        load_dataset("celeba", root)


def test_the_folders_of_the_official_download(root: Path, whole_pictures: None) -> None:
    before = load_dataset("celeba", root, size=16)
    home = root / "celeba"
    for folder, name in {"Img": "img_align_celeba", "Anno": "list_attr_celeba.txt", "Eval": "list_eval_partition.txt"}.items():
        (home / folder).mkdir()
        (home / name).rename(home / folder / name)
    alike(load_dataset("celeba", root, size=16), before)


@pytest.mark.parametrize("name", ["lfw/lfw_attributes.txt", "celeba/list_attr_celeba.txt", "celeba/list_eval_partition.txt"])
def test_lists_that_begin_with_a_byte_order_mark(root: Path, name: str) -> None:
    parse = {"lfw": lfw.parse, "celeba": celeba.parse}[name.split("/")[0]]
    before = parse(root)
    (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes())
    assert parse(root).equals(before)


def test_pictures_with_other_endings_than_the_lists_say(root: Path, whole_pictures: None) -> None:
    """As PNG, as in img_align_celeba_png, or with one more ending, as `dft perturb` writes them."""
    before = {name: load_dataset(name, root, size=16) for name in MAKERS}
    whole = load_attributes("celeba", root, (24, 16))
    celebas = root / "celeba" / "img_align_celeba"
    for path in sorted(root.rglob("*.jpg")):
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".png") if celebas in path.parents else path.with_name(f"{path.name}.png"))
        path.unlink()
    celebas.rename(celebas.with_name("img_align_celeba_png"))
    for name, faces in before.items():
        alike(found := load_dataset(name, root, size=16), faces)
        assert set(found.files).isdisjoint(faces.files)
    alike(load_attributes("celeba", root, (24, 16)), whole)


def test_funneled_pictures_do_where_there_are_no_deep_funneled_ones(
    root: Path, whole_pictures: None, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_dataset("lfw", root, size=16)
    assert caplog.text == ""
    folder = root / "lfw" / "lfw-deepfunneled"
    alike(load_dataset("lfw", folder.rename(folder.with_name("lfw_funneled")).parents[1], size=16), before)
    assert f"{folder.with_name('lfw_funneled')} holds the funneled pictures" in caplog.text


def test_what_is_there_instead_is_named(tmp_path: Path) -> None:
    (tmp_path / "lfw-deepfunneled").mkdir()
    with pytest.raises(DataError, match=r"lfw_attributes.txt is missing \(.* holds lfw-deepfunneled\): .* that holds lfw/"):
        load_dataset("lfw", tmp_path)
    for name in "abcdefg":
        (tmp_path / "lfw" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"lfw holds a, b, c, d, e and 2 more\)"):
        load_dataset("lfw", tmp_path)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_heic_is_told_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    """Where its package is installed, that reads it, whatever the file is called."""
    path = tmp_path / "a.jpg"
    path.write_bytes(faces_on_disk.HEIC.replace(b"heic", brand, 1))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    decode.knows_heic.cache_clear()
    with pytest.raises(
        DataError, match=r"a\.jpg is a HEIC picture, as phones take them: call pip install pillow-heif, or save it"
    ):
        decode.read_picture(path)
    path.write_bytes(b"\0\0\0\x1cftypqt  " + bytes(100))
    with pytest.raises(DataError, match=r"a\.jpg can't be read"):
        decode.read_picture(path)

    registered: list[str] = []
    stub = types.SimpleNamespace(register_heif_opener=lambda: registered.append("once"))
    monkeypatch.setitem(sys.modules, "pillow_heif", stub)
    decode.knows_heic.cache_clear()
    for _ in range(2):
        with pytest.raises(DataError, match="can't be read"):
            decode.read_picture(path)
    assert registered == ["once"]
    decode.knows_heic.cache_clear()


def test_all_attributes_of_celeba_are_those_of_the_file(root: Path) -> None:
    """Under its own names, blanks for underscores; people and splits are those of the seven attributes."""
    lines = (root / "celeba" / "list_attr_celeba.txt").read_text().split("\n")
    names, rows = lines[1].split(), [line.split() for line in lines[2:22]]
    faces, seven = load_attributes("celeba", root, (24, 16)), load_dataset("celeba", root, size=8)
    assert list(faces.labels) == [name.replace("_", " ") for name in names]
    assert {"5 o Clock Shadow", "Male", "Young"} < set(faces.labels)
    assert (faces.labels.dtypes == "int8").all()
    assert list(faces.labels.index) == list(range(20))
    assert (faces.labels.to_numpy() == (np.array(rows)[:, 1:] == "1")).all()
    assert faces.files.tolist() == [row[0] for row in rows]
    assert (faces.split == seven.split).all()
    assert (faces.subjects == seven.subjects).all()
    assert (faces.labels["Male"] == seven.labels["Gender"]).all()


def test_attributes_come_with_whole_pictures(root: Path) -> None:
    """At their own size they aren't touched; at another one both ramps of `faces_on_disk.noise` reach both ends."""
    faces = load_attributes("celeba", root, (109, 89))
    for file, image in zip(faces.files, faces.images, strict=True):
        with Image.open(root / "celeba" / "img_align_celeba" / file) as picture:
            assert (image.transpose(1, 2, 0) == np.asarray(picture)).all()
    faces = load_attributes("celeba", root, (40, 20))
    assert faces.images.shape == (20, 3, 40, 20)
    red, _, blue = faces.images.mean(0)
    np.testing.assert_allclose(red.mean(0)[[0, -1]], 30 + 190 * np.array([0.5, 19.5]) / 20, atol=6)
    np.testing.assert_allclose(blue.mean(1)[[0, -1]], 220 - 190 * np.array([0.5, 39.5]) / 40, atol=6)


def test_one_number_is_the_size_of_a_square(root: Path) -> None:
    folder, crop = root / "celeba" / "img_align_celeba", celeba.FRAME.picture
    square, pair = (decode.pictures("any", folder, ["000001.jpg"], size, crop) for size in (24, (24, 24)))
    assert (square == pair).all()
    wide, high = (decode.pictures("any", folder, ["000001.jpg"], size, crop) for size in ((8, 24), (24, 8)))
    assert wide.shape == (1, 3, 8, 24)
    assert high.shape == (1, 3, 24, 8)
    # the same crop, squeezed: what is averaged over its short side is what the square has there
    np.testing.assert_allclose(wide.mean((1, 2)), square.mean((1, 2)), atol=4)
    np.testing.assert_allclose(high.mean((1, 3)), square.mean((1, 3)), atol=4)


def test_shapes_and_crops_are_kept_apart(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = root / "celeba" / "img_align_celeba", ["000001.jpg"]
    whole, part = (decode.pictures("any", folder, files, (16, 24), FRAMES[name].picture) for name in ("muct", "celeba"))
    assert (whole != part).any()

    def all_of_them() -> list[FaceDataset]:
        return [*(load_attributes("celeba", root, shape) for shape in ((16, 24), (24, 16), (16, 16))),
                load_dataset("celeba", root, size=16)]  # fmt: skip

    first = all_of_them()
    assert [faces.images.shape[2:] for faces in first] == [(16, 24), (24, 16), (16, 16), (16, 16)]
    assert (first[2].images != first[3].images).any()
    monkeypatch.setattr(decode, "read_picture", None)
    assert all((a.images == b.images).all() for a, b in zip(first, all_of_them(), strict=True))
    with pytest.raises(TypeError):
        load_attributes("celeba", root, (16, 25))


def test_a_drawn_set_has_its_seven_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    load = synthetic.load

    def few(style: str, size: int, seed: int, way: str) -> FaceDataset:
        return load(style, size, seed, way, subjects=5, per_subject=2)

    monkeypatch.setattr(synthetic, "load", few)
    faces, wanted = load_attributes("press", "", (16, 16)), few("press", 16, 0, "none")
    assert tuple(faces.labels) == ATTRIBUTES
    assert (faces.images == wanted.images).all()
    assert faces.images.shape == (10, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lfw", (16, 16), "Attributes of 'lfw' at 16 x 16 can't be had: choose celeba, or a drawn set, square"),
        ("yale", (16, 16), "Attributes of 'yale'"),
        ("studio", (24, 16), "Attributes of 'studio' at 24 x 16 can't be had"),
        (
            "celeba",
            (24, 16),
            "or the environment variable DFT_DATA, to the folder that holds celeba/",
        ),
    ],
)
def test_attributes_that_cant_be_had(name: str, shape: tuple[int, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_attributes(name, "", shape)


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (3, "000001.jpg -1", "000001.jpg 0", "Line 3 .* has '0' for '5_o_Clock_Shadow', which must be one of 1, -1"),
        (5, "000003.jpg", "000003.jpg 1", "Line 5 of .* has 11 columns, not 10"),
        (1, "20", "21", "Line 1 .* promises 21 pictures, but 20 follow"),
        (22, "000020.jpg", "000021.jpg", "doesn't list 000021.jpg"),
        (2, "Young", "Male", "names a column twice"),
    ],
)
def test_a_damaged_list_of_all_attributes(root: Path, line: int, old: str, new: str, message: str) -> None:
    """A column that the seven attributes don't need is looked at, too."""
    faces_on_disk.edit(root / "celeba" / "list_attr_celeba.txt", line, old, new)
    with pytest.raises(DataError, match=message):
        load_attributes("celeba", root, (24, 16))


@pytest.mark.parametrize("text", ["", "<html>quota exceeded</html>\n", "20\n", "20\n\n\n"])
def test_a_list_of_all_attributes_that_is_something_else(root: Path, text: str) -> None:
    (root / "celeba" / "list_attr_celeba.txt").write_text(text)
    with pytest.raises(DataError, match="fetch the file again"):
        load_attributes("celeba", root, (24, 16))


def test_muct_labels_are_in_the_names(tmp_path: Path) -> None:
    table = muct.parse(faces_on_disk.muct(tmp_path))
    labels = dict(zip(table.index, zip(table["Gender"], table["Eyeglasses"], table["subject"], strict=True), strict=True))
    assert labels["i001qa-fg.jpg"] == (0, 1, "001")
    assert labels["i002qa-mn.jpg"] == (1, 0, "002")
    assert labels["i000qa-m2.jpg"] == (1, -1, "000")
    assert (table[list(ATTRIBUTES[1:-1])] == -1).all(axis=None)


def test_muct_originals_without_a_face_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A face is 'found' where the picture isn't black."""
    faces_on_disk.muct(tmp_path)
    blank = ["i100qa-fn.jpg", "i101qa-mn.jpg"]
    for file in blank:
        Image.new("RGB", (480, 640)).save(tmp_path / "muct" / "jpg" / file)
    red = Image.new("RGB", (480, 640))
    red.paste((255, 0, 0), (120, 160, 360, 400))
    red.save(tmp_path / "muct" / "jpg" / "i102qa-fg.jpg")

    def found(_: cv2.CascadeClassifier, grey: np.ndarray) -> tuple[int, int, int, int] | None:
        return (120, 160, 240, 240) if grey.any() else None

    monkeypatch.setattr(muct, "largest_face", found)
    with caplog.at_level(logging.WARNING):
        faces = load_dataset("muct", tmp_path, size=8, way="none")
    assert "no face found in 2 of 43 pictures" in caplog.text
    assert not {*blank} & {*faces.files}
    assert len(faces) == len(faces.labels) == len(faces.split) == 41
    assert faces.files[-1] == "i102qa-fg.jpg"
    assert faces.images[-1, 0].min() > 200
    assert faces.images[-1, 1:].max() < 60


def test_viola_jones_finds_no_face_in_noise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No face was found in any of the 4 pictures"):
        load_dataset("muct", faces_on_disk.muct(tmp_path, people=1, width=480, height=640))


def test_viola_jones_takes_the_largest_face() -> None:
    class Detector:
        def detectMultiScale(self, grey: np.ndarray, **_: object) -> np.ndarray:  # noqa: N802
            return np.array([[5, 5, 90, 90], [100, 200, 150, 150], [7, 7, 100, 100]])[: grey[0, 0]]

    def largest(found: int) -> object:
        return muct.largest_face(Detector(), np.full((640, 480), found, np.uint8))  # type: ignore[arg-type]

    assert largest(3) == (100, 200, 150, 150)
    assert largest(1) == (5, 5, 90, 90)
    assert muct.largest_face(muct.viola_jones(), np.zeros((640, 480), np.uint8)) is None


@pytest.mark.parametrize("name", MAKERS)
def test_a_second_load_decodes_nothing_and_survives_a_move(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(name, root, size=16)
    monkeypatch.setattr(decode, "read_picture", None)
    moved = root.rename(root.parent / "moved")
    again = load_dataset(name, moved, size=16)
    assert (first.images == again.images).all()
    assert (first.split == again.split).all()
    with pytest.raises(TypeError):
        load_dataset(name, moved, size=17)


def test_a_changed_picture_is_decoded_again(root: Path) -> None:
    first = load_dataset("celeba", root, size=16)
    faces_on_disk.noise(root / "celeba" / "img_align_celeba" / first.files[4], 89, 109, seed=999)
    again = load_dataset("celeba", root, size=16)
    assert np.flatnonzero((first.images != again.images).any((1, 2, 3))).tolist() == [4]


def test_a_failed_decode_leaves_no_cache(root: Path, cache: Path) -> None:
    faces_on_disk.truncate(root / "celeba" / "img_align_celeba" / "000007.jpg")
    with pytest.raises(DataError, match=r"000007\.jpg can't be read .*truncated.*: fetch that picture again"):
        load_dataset("celeba", root)
    assert not [p for p in cache.rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_an_unreadable_picture(root: Path, damage: bytes) -> None:
    (root / "lfw" / "lfw-deepfunneled" / "Bo_Yi" / "Bo_Yi_0002.jpg").write_bytes(damage)
    with pytest.raises(DataError, match=r"Bo_Yi_0002\.jpg can't be read"):
        load_dataset("lfw", root)


def test_pictures_that_arent_on_disk(root: Path) -> None:
    for number in ("2", "3"):
        (root / "lfw" / "lfw-deepfunneled" / "Bo_Yi" / f"Bo_Yi_000{number}.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of the 36 pictures .* the first is Bo_Yi/Bo_Yi_0002\.jpg"):
        load_dataset("lfw", root)


@pytest.mark.parametrize(
    "path",
    [
        "lfw/lfw_attributes.txt",
        "lfw/lfw-deepfunneled",
        "lfw",
        "celeba/list_attr_celeba.txt",
        "celeba/list_eval_partition.txt",
        "celeba/img_align_celeba",
        "muct",
    ],
)
def test_a_missing_file_or_folder_is_named_with_what_fetches_it(root: Path, path: str) -> None:
    name = path.split("/")[0]
    (root / path).rename(root / "away")
    with pytest.raises(DataError) as error:
        load_dataset(name, root)
    assert f"{root / path}" in str(error.value)
    assert f"dft download {name} --to {root}, or set data_root" in str(error.value)


@pytest.mark.parametrize(
    ("path", "line", "old", "new", "message"),
    [
        ("lfw/lfw_attributes.txt", 5, "Ann", "Ann\tB", "Line 5 of .*lfw_attributes.txt has 12 columns, not 11"),
        ("lfw/lfw_attributes.txt", 4, "O'Hara\t2", "O'Hara", "Line 4 of .* has 10 columns, not 11"),
        ("lfw/lfw_attributes.txt", 6, "Cruz\t1", "Cruz\tone", "Line 6 .* has 'one' for 'imagenum', .* a number"),
        ("lfw/lfw_attributes.txt", 6, "Cruz\t1\t", "Cruz\t1\tnan", "Line 6 .* for 'Male', .* a number"),
        ("lfw/lfw_attributes.txt", 2, "Smiling", "Smirking", "no column 'Smiling'"),
        ("celeba/list_attr_celeba.txt", 3, "000001.jpg", "000001.jpg 1", "Line 3 of .* has 11 columns, not 10"),
        ("celeba/list_attr_celeba.txt", 7, "000005.jpg", "", "Line 7 of .* has 9 columns, not 10"),
        ("celeba/list_attr_celeba.txt", 3, " 1 ", " 0.5 ", "Line 3 .* has '0.5' for 'Male', .* one of 1, -1"),
        ("celeba/list_attr_celeba.txt", 2, "Male", "Female", "no column 'Male'"),
        ("celeba/list_attr_celeba.txt", 1, "20", "202599", "Line 1 .* promises 202599 pictures, but 20 follow"),
        ("celeba/list_eval_partition.txt", 2, "2.jpg 0", "2.jpg 3", "Line 2 .* has '3' .* one of 0, 1, 2"),
        ("celeba/list_eval_partition.txt", 2, "2.jpg 0", "2.jpg", "Line 2 .* has 1 columns, not 2"),
        ("celeba/list_eval_partition.txt", 2, "2.jpg", "9.jpg", "doesn't list 000002.jpg"),
    ],
)
def test_a_damaged_label_file(root: Path, path: str, line: int, old: str, new: str, message: str) -> None:
    faces_on_disk.edit(root / path, line, old, new)
    with pytest.raises(DataError, match=message):
        load_dataset(path.split("/")[0], root)


@pytest.mark.parametrize("text", ["", "<html>quota exceeded</html>\n", "\xff\xfe\n\n\n"])
@pytest.mark.parametrize("path", ["lfw/lfw_attributes.txt", "celeba/list_attr_celeba.txt"])
def test_a_label_file_that_is_something_else(root: Path, path: str, text: str) -> None:
    (root / path).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="fetch the file again"):
        load_dataset(path.split("/")[0], root)


def test_muct_names_that_fit_no_rule(tmp_path: Path) -> None:
    folder = tmp_path / "muct" / "jpg"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="holds no picture"):
        load_dataset("muct", tmp_path)
    faces_on_disk.noise(folder / "i000qa-xn.jpg", 24, 32)
    with pytest.raises(DataError, match=r"i000qa-xn\.jpg isn't named like"):
        load_dataset("muct", tmp_path)


def test_unknown_names() -> None:
    with pytest.raises(DataError, match="no data set 'yale': choose one of lfw, celeba, muct, studio, press, webcam"):
        load_dataset("yale")
    with pytest.raises(DataError, match="no protocol 'random': choose one of subject, paper"):
        load_dataset("studio", protocol="random")
    with pytest.raises(DataError, match="set the parameter data_root"):
        load_dataset("lfw")


def test_two_classes_are_required_of_each_split(root: Path) -> None:
    faces = load_dataset("muct", root, size=8)
    require_two_classes(faces, "Gender")
    with pytest.raises(DataError, match="no labels for 'Smiling': choose one of Gender, Eyeglasses"):
        require_two_classes(faces, "Smiling")
    with pytest.raises(DataError, match="no attribute 'Hat'"):
        require_two_classes(faces, "Hat")
    faces.labels.loc[faces.split == "val", "Gender"] = 0
    with pytest.raises(DataError, match="no picture in its val split where 'Gender' is present"):
        require_two_classes(faces, "Gender")


@real
def test_real_labels() -> None:
    faces, people = lfw.parse(Path(DATA)), celeba.parse(Path(DATA))
    assert (len(faces), len(people)) == (13143, 18253)
    assert faces["Gender"].mean() == pytest.approx(0.775, abs=5e-4)
    assert people["Gender"].mean() == pytest.approx(0.441, abs=5e-4)
    assert people["split"].value_counts().reindex(SPLITS).tolist() == [9078, 4535, 4640]
    assert faces["subject"].nunique() == 5721


@real
def test_real_muct() -> None:
    faces = load_dataset("muct", DATA, size=16)
    assert len(faces) == 3755
    assert faces.labels["Gender"].sum() == 1845
    assert faces.labels["Eyeglasses"].value_counts().to_dict() == {0: 3073, 1: 679, -1: 3}
    assert pd.Series(faces.split).groupby(faces.subjects).nunique().max() == 1


@real
def test_real_lfw_people_are_on_one_side() -> None:
    table = lfw.parse(Path(DATA))
    sides = splits.subject_split(table["subject"].to_numpy(str), table["Gender"].to_numpy(), 0)
    assert pd.Series(sides).groupby(table["subject"].to_numpy()).nunique().max() == 1
    assert (sides == "train").mean() == pytest.approx(0.6, abs=0.05)


@real
def test_real_attributes_of_celeba() -> None:
    """Shares as in the folder's README, agreement with the seven attributes, and some pictures as Pillow makes them."""
    faces, seven = load_attributes("celeba", DATA, (64, 64)), celeba.parse(Path(DATA))
    assert faces.images.shape == (18253, 3, 64, 64)
    assert faces.labels.shape == (18253, 40)
    present = {
        "Male": (4036, 2082, 1936),
        "Smiling": (4384, 2249, 2339),
        "Attractive": (4356, 2222, 2180),
        "Wearing Lipstick": (3951, 1880, 2224),
        "Bushy Eyebrows": (1225, 620, 609),
        "Pale Skin": (358, 188, 184),
        "Eyeglasses": (675, 350, 321),
    }
    for name, counts in present.items():
        assert tuple(faces.labels[name][faces.split == side].sum() for side in SPLITS) == counts
    assert faces.labels.isin([0, 1]).all(axis=None)
    assert seven.index.tolist() == faces.files.tolist()
    assert seven["split"].tolist() == faces.split.tolist()
    for name, column in celeba.COLUMNS.items():
        assert (faces.labels[column.replace("_", " ")].to_numpy() == seven[name].to_numpy()).all()
    for i in range(0, 18253, 997):
        with Image.open(Path(DATA) / "celeba" / "img_align_celeba" / faces.files[i]) as picture:
            small = np.asarray(picture.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        assert (faces.images[i] == small).all()
