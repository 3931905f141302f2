"""A practitioner's folder and CSV: what is read, and that every fault ends in one sentence."""

import os
from pathlib import Path

import faces_on_disk
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dftlib.datasets import SPLITS
from dftlib.datasets.files import below, is_picture
from dftlib.datasets.folder import load, read_labels
from dftlib.errors import DataError

FILES = [f"{i:02d}.png" for i in range(30)]
ROWS = [f"{file},{'cat' if i % 3 else 'dog'}" for i, file in enumerate(FILES)]
RIGHT_TOP = 6  # the EXIF orientation of a phone held upright


@pytest.fixture(scope="module")
def photos(scratch: Path) -> Path:
    """30 pictures, each of one grey level, eight times its number."""
    folder = scratch / "photos"
    folder.mkdir()
    for i, file in enumerate(FILES):
        Image.new("RGB", (6, 4), (8 * i,) * 3).save(folder / file)
    return folder


def write(folder: Path, *rows: str, header: str = "file,label") -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_folder_is_a_data_set(photos: Path, tmp_path: Path) -> None:
    found = load(photos, write(tmp_path, *ROWS), 5)
    faces = found.dataset
    assert found.names == ("cat", "dog")
    assert found.unlabelled == 0
    assert faces.name == "photos"
    assert faces.images.shape == (30, 3, 5, 5)
    assert faces.images.dtype == np.uint8
    assert faces.images[:, 0, 2, 2].tolist() == [8 * i for i in range(30)]
    assert faces.files.tolist() == faces.subjects.tolist() == FILES
    assert faces.labels["label"].dtype == "int8"
    assert faces.labels["label"].tolist() == [0 if i % 3 else 1 for i in range(30)]
    counts = pd.crosstab(faces.split, faces.labels["label"])
    assert counts.loc[list(SPLITS)].to_numpy().tolist() == [[12, 6], [4, 2], [4, 2]]


def test_the_split_depends_on_the_seed_but_not_on_the_order_of_the_lines(photos: Path, tmp_path: Path) -> None:
    def sides(rows: list[str], seed: int) -> dict[str, str]:
        faces = load(photos, write(tmp_path, *rows), 2, seed).dataset
        return dict(zip(faces.files, faces.split, strict=True))

    assert sides(ROWS, 0) == sides(ROWS[::-1], 0)
    assert sides(ROWS, 0) != sides(ROWS, 1)


def test_a_person_is_on_one_side(photos: Path, tmp_path: Path) -> None:
    rows = [f"{file},{'cat' if i % 2 else 'dog'},{'Zoë' if i < 6 else i // 2}" for i, file in enumerate(FILES)]
    faces = load(photos, write(tmp_path, *rows, header="file,label,person"), 2).dataset
    assert faces.subjects[0] == "Zoë"
    assert pd.Series(faces.split).groupby(faces.subjects).nunique().max() == 1


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("10", "9", "010"), ("9", "10")),
        (("10", "9", "1.5"), ("1.5", "10", "9")),
        (("b", "B", "é"), ("B", "b", "é")),
    ],
)
def test_classes_are_sorted_by_number_or_by_name(
    photos: Path, tmp_path: Path, labels: tuple[str, ...], names: tuple[str, ...]
) -> None:
    rows = [f"{file},{labels[i % 3]}" for i, file in enumerate(FILES)]
    found = load(photos, write(tmp_path, *rows), 2)
    assert found.names == names
    assert found.names[found.dataset.labels["label"][0]] == labels[0]


def test_a_csv_as_spreadsheets_write_it(photos: Path, tmp_path: Path) -> None:
    """Byte-order mark, CRLF, quotes, blank lines, other columns, blanks around fields."""
    rows = [f'"{file}",{i}, "{"cat, black" if i % 3 else " dog"}"' for i, file in enumerate(FILES)]
    text = "\r\n".join(["file,no, label ", *rows[:9], "", ",,", *rows[9:]])
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    assert load(photos, path, 2).names == ("cat, black", "dog")


def test_pictures_without_a_label_are_counted(tmp_path: Path) -> None:
    for i, file in enumerate((*FILES, "more.JPG", "sub/more.jpg", ".hidden.jpg")):
        faces_on_disk.noise(tmp_path / file, 4, 4, i)
    (tmp_path / "film.mpg").write_bytes(b"")
    found = load(tmp_path, write(tmp_path, *(f"./{row}" for row in ROWS)), 2)
    assert found.unlabelled == 2
    assert found.dataset.files.tolist() == FILES


def test_a_phones_photo_stands_upright(photos: Path, tmp_path: Path) -> None:
    lying = Image.new("RGB", (8, 6))
    lying.paste((255, 0, 0), (0, 0, 2, 6))  # the left of the sensor is the top of the scene
    exif = Image.Exif()
    exif[0x112] = RIGHT_TOP
    for i, file in enumerate(FILES):
        lying.putpixel((7, 5), (0, i, 0))
        lying.save(tmp_path / file, exif=exif)
    red = load(tmp_path, write(tmp_path, *ROWS), 8).dataset.images[0, 0]
    assert red[0].min() > 200
    assert red[-4:].max() < 50


def test_endings_of_pictures() -> None:
    assert all(map(is_picture, map(Path, ("a.jpg", "b.JPEG", "c.png", "d.webp", "e.tif", "f.bmp", "g.gif", "h.HEIC"))))
    assert not any(map(is_picture, map(Path, ("a.pdf", "b.mpg", "c.txt", "d", ".e.jpg", "f.h5"))))


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "name,label", "first line of .*labels.csv names the column 'file' 0 times"),
        (1, "file;label", "names the column 'file' 0 times: .* with commas"),
        (1, "file,label,label", "names the column 'label' 2 times"),
        (3, "01.png", r"Line 3 of .*labels.csv has 1 fields, not 2"),
        (3, "01.png,cat,black", "Line 3 of .* has 3 fields, not 2"),
        (4, "02.png, ", "Line 4 of .* has no label: fill it in"),
        (4, ",cat", "Line 4 of .* has no file: fill it in"),
        (5, "/etc/03.png,cat", "Line 5 of .* names /etc/03.png: give the name within"),
        (5, "a/../../03.png,cat", r"Line 5 of .* names a/\.\./\.\./03.png: give"),
        (6, "./00.png,cat", "Line 6 of .* names 00.png again, after line 2: keep one"),
        (7, '"05.png,cat', "Line .* of .* isn't CSV .*: mend it"),
        (8, '"06.png"x,cat', "Line 8 of .* isn't CSV"),
        (9, "nobody.png,cat", r"1 of the 30 pictures that .* aren't in .*, the first is nobody.png \(line 9\): put them there"),
        (9, f"{'x' * 5000},cat", r"1 of the 30 pictures .* \(line 9\)"),
        (9, "07\0.png,cat", r"1 of the 30 pictures .* \(line 9\)"),
        (9, "00.png/a,cat", r"1 of the 30 pictures .* \(line 9\)"),
        (
            9,
            "photos/cats/07.png,cat",
            r"the first is photos/cats/07\.png \(line 9\): write it as .* below that folder, 07\.png\.$",
        ),
        (9, "07.png,Cat", "'Cat' in .*labels.csv has 1 pictures: give .*, or take its lines out, or call it 'cat' too"),
        (9, "07.png,horse", "Class 'horse' in .*labels.csv has 1 pictures: give it 10 or more"),
    ],
)
def test_a_fault_in_a_line(photos: Path, tmp_path: Path, line: int, text: str, message: str) -> None:
    lines = ["file,label", *ROWS]
    lines[line - 1] = text
    with pytest.raises(DataError, match=message):
        load(photos, write(tmp_path, *lines[1:], header=lines[0]), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: write a first line"),
        (b"\n,\n  \n", "is empty"),
        (b"file,label\n", "names no picture"),
        (b"file,label\na.png,k\xe4fer\n", "Line 2 of .* isn't UTF-8: save the file as CSV in UTF-8"),
        ("file,label\n".encode("utf-16"), "Line 1 of .* isn't UTF-8"),
        (b"file,label\n" + b"x" * 200_000 + b",cat\n", "Line 2 of .* isn't CSV"),
    ],
)
def test_a_csv_that_is_something_else(photos: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(photos, path, 2)


def test_what_isnt_there(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is no folder: name the folder"):
        load(tmp_path / "nowhere", write(tmp_path, *ROWS), 2)
    for path in (tmp_path / "none.csv", photos):
        with pytest.raises(DataError, match=r"can't be read .*: name a CSV file"):
            load(photos, path, 2)


def test_an_unreadable_picture(tmp_path: Path) -> None:
    for i, file in enumerate(FILES):
        faces_on_disk.noise(tmp_path / file, 40, 40, i)
    faces_on_disk.truncate(tmp_path / FILES[7])
    with pytest.raises(DataError, match=r"07\.png can't be read"):
        load(tmp_path, write(tmp_path, *ROWS), 2)
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / FILES[7])
    with pytest.raises(DataError, match=r"07\.png has grey levels of more than 8 bits: save it"):
        load(tmp_path, write(tmp_path, *ROWS), 2)


def test_classes_that_cant_be_learnt(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 different values: give 2 to 127 classes"):
        load(photos, write(tmp_path, *[f"{file},cat" for file in FILES]), 2)
    rows = [f"{file},{'cat,Zoë' if i % 3 else f'dog,{i}'}" for i, file in enumerate(FILES)]
    with pytest.raises(DataError, match=r"No picture of class 'cat' in .* is left for the (train|val) split, as nobody"):
        load(photos, write(tmp_path, *rows, header="file,label,person"), 2)
    (tmp_path / "many").mkdir()
    for i in range(128):
        (tmp_path / "many" / str(i)).touch()
    with pytest.raises(DataError, match="has 128 different values"):
        load(tmp_path / "many", write(tmp_path, *[f"{i},{i}" for i in range(128)]), 2)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("file,label,Person", "Person"),
        ("FILE,Label,person_id", "person_id"),
        ("Image Path,CLASS,subject", "subject"),
        ("filename,target,Identity", "Identity"),
        ("image_id,category,id", "id"),
        ("file,label,Subject-ID", "Subject-ID"),
    ],
)
def test_columns_are_known_by_other_names(photos: Path, tmp_path: Path, header: str, taken: str) -> None:
    """Twelve people with pictures of both classes each stay on one side."""
    rows = [f"{file},{'cat' if i % 3 else 'dog'},{i % 12}" for i, file in enumerate(FILES)]
    found = load(photos, write(tmp_path, *rows, header=header), 2)
    faces = found.dataset
    assert len(set(faces.subjects)) == 12
    assert pd.Series(faces.split).groupby(faces.subjects).nunique().max() == 1
    assert found.notes == (f"People are told apart by the column '{taken}' of labels.csv.",)


def test_columns_that_are_left_aside_are_told(photos: Path, tmp_path: Path) -> None:
    """Of several names for people the plainest is taken."""

    def notes(header: str) -> tuple[str, ...]:
        rows = [f"{file},{'cat' if i % 3 else 'dog'},{i % 12},{i}" for i, file in enumerate(FILES)]
        return load(photos, write(tmp_path, *rows, header=header), 2).notes

    assert notes("file,label,person,id") == ("Columns of labels.csv that were left aside: id.",)
    assert notes("file,label,subject,id")[1] == "Columns of labels.csv that were left aside: id."
    assert notes("file,label,age,who") == (
        "Columns of labels.csv that were left aside: age, who; none is called person, so each picture counts as another person.",
    )
    with pytest.raises(DataError, match="names the column 'person' 2 times"):
        notes("file,label,person,Person")


def test_copies_of_a_picture_are_on_one_side_with_all_their_people(photos: Path, tmp_path: Path) -> None:
    """Whatever they are called, and whoever is said to be on them; how many there are is told."""
    copies = {"00.png": ["a.png", "b.jpg"], "05.png": ["c.png"]}
    for file in FILES:
        (tmp_path / file).write_bytes((photos / file).read_bytes())
    for file, names in copies.items():
        for name in names:
            (tmp_path / name).write_bytes((photos / file).read_bytes())
    more = ["a.png,dog", "b.jpg,cat", "c.png,cat"]
    for seed in range(8):
        found = load(tmp_path, write(tmp_path, *ROWS, *more), 2, seed)
        faces = found.dataset
        side, who = (dict(zip(faces.files, x, strict=True)) for x in (faces.split, faces.subjects))
        for file, names in copies.items():
            assert {side[name] for name in names} == {side[file]}
            assert {who[name] for name in names} == {who[file]} == {file}
        assert len(set(faces.subjects)) == 30
        assert found.notes == (
            "3 pictures are copies of others, byte for byte: copies are on one side, as if of one person; 1 pictures have copies "
            "with another label.",
        )
    people = [f"{row},{i}" for i, row in enumerate([*ROWS, "a.png,dog", "c.png,cat"])]
    faces = load(tmp_path, write(tmp_path, *people[:30], "a.png,dog,5", "c.png,cat,7", header="file,label,person"), 2).dataset
    who = dict(zip(faces.files, faces.subjects, strict=True))
    assert who["00.png"] == who["05.png"] == who["07.png"] == who["a.png"] == who["c.png"] == "0"


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("Zoe\u0308.jpg", "Zo\u00eb.jpg"),
        ("Zo\u00eb.jpg", "Zoe\u0308.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("a/b.jpg", "a\\b.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("one", "one.jpg"),
        ("one.jpg", "one.jpg.png"),
        ("one.png", "one.png.png"),
        ("one.jpg", "one.png"),
    ],
)
def test_names_that_differ_from_the_files_are_matched(photos: Path, tmp_path: Path, listed: str, there: str) -> None:
    for file in FILES[1:]:
        (tmp_path / file).write_bytes((photos / file).read_bytes())
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes((photos / FILES[0]).read_bytes())
    found = load(tmp_path, write(tmp_path, f"{listed},dog", *ROWS[1:]), 2)
    assert found.dataset.files[0] == there
    assert found.unlabelled == 0
    assert (found.dataset.images[0] == 0).all()
    if "Zo" not in listed and listed != "a\\b.jpg":  # which are the same names, written in one way
        assert "1 names in labels.csv mean files with other names, such as" in found.notes[0]


def test_a_tuned_folder_takes_the_same_labels_and_has_the_same_split(photos: Path, tmp_path: Path) -> None:
    """What `dft perturb` names 00.png.png is 00.png in the CSV, beside a.jpg.png and a.png.png."""
    for file in FILES:
        (tmp_path / f"{file}.png").write_bytes((photos / file).read_bytes())
    labels = write(tmp_path, *ROWS)
    tuned, plain = load(tmp_path, labels, 2).dataset, load(photos, labels, 2).dataset
    assert tuned.files.tolist() == [f"{file}.png" for file in FILES]
    assert (tuned.split == plain.split).all()
    assert (tuned.images == plain.images).all()


@pytest.mark.parametrize("there", [["x.jpg", "x.gif"], ["X.png", "x.PNG"], ["00.jpg"], []])
def test_a_name_that_no_file_or_several_fit_is_told(photos: Path, tmp_path: Path, there: list[str]) -> None:
    """Nor is a file taken that another line means."""
    for file in [*FILES[:-1], *there]:
        (tmp_path / file).write_bytes((photos / "00.png").read_bytes())
    rows = [*ROWS[:-1], "x.png,cat"] if there != ["00.jpg"] else [*ROWS[1:-1], "00.jpeg,cat", "00,cat"]
    with pytest.raises(DataError, match=r"[12] of the 30 pictures that .* aren't in .*, the first is (x.png|00.jpeg|00) \(line"):
        load(tmp_path, write(tmp_path, *rows), 2)


def test_linked_folders_are_looked_into_once(photos: Path, tmp_path: Path) -> None:
    """A link to a folder above, itself or in a round of two, isn't followed; broken links are told, and so in a report."""
    home, far = tmp_path / "home", tmp_path / "far"
    for folder in (home / "a", home / "b", far):
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes((photos / "01.png").read_bytes())
    (home / "linked").symlink_to(far)
    (home / "a" / "round").symlink_to(home / "b")
    (home / "b" / "round").symlink_to(home / "a")
    (far / "up").symlink_to(home)
    (home / "nowhere.png").symlink_to("none")
    (home / "self").symlink_to("self")
    found = below(home)
    assert found.files == ["a/round/x.png", "a/x.png", "b/round/x.png", "b/x.png", "linked/x.png"]
    assert found.circles == ["a/round/round", "b/round/round", "linked/up"]
    assert found.unread == ["nowhere.png (a broken link)", "self (a broken link)"]
    assert found.folders == {home.resolve(), far.resolve(), home / "a", home / "b"}

    rows = [f"linked/{row}" for row in ROWS]
    for file in FILES:
        (far / file).write_bytes((photos / file).read_bytes())
    loaded = load(home, write(tmp_path, *rows), 2)
    assert loaded.dataset.images[:, 0, 0, 0].tolist() == [8 * i for i in range(30)]
    assert loaded.unlabelled == 5
    unread = "nowhere.png (a broken link), self (a broken link)"
    assert loaded.notes == (f"Not looked into below the folder of the pictures: {unread}.",)


def test_two_folders_of_one_name_are_two(photos: Path, tmp_path: Path) -> None:
    """With equal names, sizes and times, as unpacked archives have them."""
    labels, seen = write(tmp_path, *ROWS), []
    for i, name in enumerate(("one", "two")):
        folder = tmp_path / name / "photos"
        folder.mkdir(parents=True)
        for k, file in enumerate(FILES):
            Image.new("RGB", (4, 4), (8 * k, 100 * i, 0)).save(folder / file.replace("png", "bmp"))
            os.utime(folder / file.replace("png", "bmp"), (7, 7))
        seen.append(load(folder, labels, 4).dataset.images)
    assert {int(images[0, 1, 0, 0]) for images in seen} == {0, 100}


VALID = ("file,label\n" + "\n".join(ROWS) + "\n").encode()
texts = st.text(st.sampled_from('a1,;"\r\n\0 .é\ufeff/') | st.characters(codec="utf-8"), max_size=12)
listed = st.lists(st.sampled_from(ROWS) | texts, max_size=40).map(lambda rows: "\n".join(rows).encode())
headers = st.sampled_from([b"file,label\n", b"\xef\xbb\xbflabel,file,person\r\n", b"file,label,\n"])
tables = st.tuples(headers, listed | st.binary()).map(b"".join)
# a whole file, with a few bytes put in, or put over others, at one place
edited = st.tuples(st.integers(0, len(VALID)), st.binary(max_size=3) | texts.map(str.encode), st.integers(0, 3)).map(
    lambda edit: VALID[: edit[0]] + edit[1] + VALID[edit[0] + edit[2] :]
)


@given(st.binary(max_size=200) | tables | edited)
def test_whatever_the_csv_holds_it_loads_or_is_refused(photos: Path, scratch: Path, content: bytes) -> None:
    """Whatever the bytes: the first two kinds are mostly refused, the third mostly loads."""
    path = scratch / "any.csv"
    path.write_bytes(content)
    try:
        table, _ = read_labels(path)
        found = load(photos, path, 2)
    except DataError:
        return
    assert len(found.dataset) == len(table) == len(set(table["file"]))
    assert set(found.dataset.split) == set(SPLITS)
