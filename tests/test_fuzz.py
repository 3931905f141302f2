"""Whatever stands in a data set's files, it loads or is refused in a sentence: no other error, and nothing runs."""

import re
import shutil
from pathlib import Path

import faces_on_disk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dftlib.datasets import SPLITS, load_attributes, load_dataset
from dftlib.errors import DataError

pytestmark = pytest.mark.slow

LISTS = ("lfw/lfw_attributes.txt", "celeba/list_attr_celeba.txt", "celeba/list_eval_partition.txt")
PICTURES = ("lfw/lfw-deepfunneled/Bo_Yi/Bo_Yi_0001.jpg", "celeba/img_align_celeba/000003.jpg", "muct/jpg/i002qa-mn.jpg")
WORDS = (
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"-1",
    b"1e999",
    b"nan",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b'"',
    b"#",
    b"../",
    b"/etc/passwd",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    faces_on_disk.lfw(folder, 1)
    faces_on_disk.celeba(folder, 8)
    return faces_on_disk.muct(folder, 4)


@st.composite
def damages(draw: st.DrawFn, paths: tuple[str, ...]) -> tuple[str, list[tuple[float, int, bytes]]]:
    """A file, and what befalls it: places as shares of its length, bytes that go, bytes that come."""
    come = st.one_of(st.sampled_from(WORDS), st.binary(max_size=4))
    place = st.floats(0, 1, exclude_max=True)
    return draw(st.sampled_from(paths)), draw(st.lists(st.tuples(place, st.integers(0, 40), come), min_size=1, max_size=4))


def loads_or_is_refused(root: Path, path: str, steps: list[tuple[float, int, bytes]]) -> None:
    name, file = path.split("/")[0], root / path
    whole = file.read_bytes()
    content = whole
    for share, gone, come in steps:
        place = int(share * len(content))
        content = content[:place] + come + content[place + gone :]
    found, said = [], ""
    try:
        file.write_bytes(content)
        found.append(load_dataset(name, root, size=8))
        if name == "celeba":
            found.append(load_attributes(name, root, (8, 8)))
    except DataError as error:
        said = str(error)
    finally:
        file.write_bytes(whole)
    assert not said or re.search(r": [^:]*\.$", said), "a remedy stands behind the last colon"
    for one in found:
        assert one.images.shape == (len(one.labels), 3, 8, 8)
        assert one.images.dtype == np.uint8
        assert set(one.split) <= set(SPLITS)
        assert one.labels.isin([-1, 0, 1]).all(axis=None)
        assert not [f for f in one.files if ".." in Path(f).parts or Path(f).is_absolute()], "no path outside the folder"


@settings(max_examples=150)
@given(damage=damages(LISTS))
def test_a_damaged_list(root: Path, damage: tuple[str, list[tuple[float, int, bytes]]]) -> None:
    loads_or_is_refused(root, *damage)


@settings(max_examples=100)
@given(damage=damages(PICTURES))
def test_a_damaged_picture(root: Path, damage: tuple[str, list[tuple[float, int, bytes]]]) -> None:
    loads_or_is_refused(root, *damage)


@settings(max_examples=60)
@given(path=st.sampled_from(LISTS + PICTURES), content=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_something_else_in_its_place(root: Path, path: str, content: bytes) -> None:
    loads_or_is_refused(root, path, [(0.0, 10**9, content)])


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@settings(max_examples=60)
@given(name=st.one_of(NAMES, NAMES.map(lambda n: f"i{n}.jpg"), st.from_regex(r"i\d{3}[a-z]{2}-[fm][ng\d]\.jpg", fullmatch=True)))
def test_any_file_name_among_muct(root: Path, name: str) -> None:
    stray = root / "muct" / "jpg" / name
    if stray.exists():
        return
    said = ""
    try:
        shutil.copy(root / PICTURES[2], stray)
        load_dataset("muct", root, size=8)
    except DataError as error:
        said = str(error)
    finally:
        stray.unlink(missing_ok=True)
    assert not said or "isn't named like i000qa-fn.jpg" in said
