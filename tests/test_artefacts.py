"""Artefacts are made once, found again by content, and never half written."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dftlib import artefacts, paths
from dftlib.errors import DataError
from dftlib.notebook import outputs


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DFT_OUTPUT", str(tmp_path / "output"))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class Maker:
    """Counts how often it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls, self.error = 0, error

    def tensors(self) -> dict[str, Tensor]:
        self.calls += 1
        if self.error:
            raise self.error
        return {"a": torch.arange(6.0).view(2, 3).T.requires_grad_(), "b": torch.tensor([1], dtype=torch.int64)}

    def array(self) -> NDArray[np.uint8]:
        self.calls += 1
        if self.error:
            raise self.error
        return np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_whole_writes_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with artefacts.whole(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        temporary.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert files(tmp_path) == ["new/folder/file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".txt", "x." + "y" * 253):
        with artefacts.whole(tmp_path / name) as temporary:
            temporary.write_text("content")
        assert (tmp_path / name).read_text() == "content"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whole_writes_nothing_after_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    def write(path: Path) -> None:
        with artefacts.whole(path) as temporary:
            temporary.write_text("half")
            raise error

    (tmp_path / "old.txt").write_text("before")
    for name in ("old.txt", "new.txt"):
        with pytest.raises(error):
            write(tmp_path / name)
    assert files(tmp_path) == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "before"


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("before")
    code = (
        "import os, sys; from pathlib import Path; from dftlib import artefacts\n"
        "with artefacts.whole(Path(sys.argv[1])) as t:\n    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    root = Path(artefacts.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file.txt")], cwd=root, check=False)
    assert done.returncode == -9
    assert (tmp_path / "file.txt").read_text() == "before"
    with artefacts.whole(tmp_path / "file.txt") as temporary:
        temporary.write_text("after")
    assert (tmp_path / "file.txt").read_text() == "after"


def test_two_may_write_one_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with artefacts.whole(path) as first:
        with artefacts.whole(path) as second:
            second.write_text("second")
        first.write_text("first")
    assert path.read_text() == "first"
    assert files(tmp_path) == ["file.txt"]


def test_tensors_are_made_once() -> None:
    maker = Maker()
    first, again = (artefacts.tensors("kind", 1, {"n": 3}, maker.tensors) for _ in range(2))
    assert maker.calls == 1
    for found in (first, again):
        assert torch.equal(found["a"], torch.arange(6.0).view(2, 3).T)
        assert found["b"].dtype == torch.int64
        assert not found["a"].requires_grad
    assert len(files(paths.cache_folder())) == 1


def test_a_folder_that_is_there_is_not_made_either(tmp_path: Path) -> None:
    with artefacts.once(tmp_path) as missing:
        assert not missing


def test_an_array_is_made_once_and_read_only() -> None:
    maker = Maker()
    first, again = (artefacts.array("kind", 1, {"n": 3}, maker.array) for _ in range(2))
    assert maker.calls == 1
    for found in (first, again):
        assert isinstance(found, np.memmap)
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize("save", ["tensors", "array"])
def test_of_several_that_want_an_artefact_one_makes_it(save: str) -> None:
    maker = Maker()

    def slowly() -> object:
        time.sleep(0.2)
        return getattr(maker, save)()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: getattr(artefacts, save)("kind", 1, {}, slowly), range(4)))
    assert len(found) == 4
    assert maker.calls == 1
    assert len(files(paths.cache_folder())) == 1


@pytest.mark.parametrize("save", ["tensors", "array"])
def test_what_fails_to_be_made_leaves_nothing_and_is_made_by_the_next(save: str) -> None:
    call: Callable[..., object] = getattr(artefacts, save)
    with pytest.raises(KeyError):
        call("kind", 1, {}, getattr(Maker(KeyError()), save))
    assert files(paths.cache_folder()) == []
    call("kind", 1, {}, getattr(Maker(), save))
    (path,) = (p for p in paths.cache_folder().rglob("*") if p.is_file())
    path.with_suffix(".lock").touch()  # of a process that was killed as soon as it was made
    call("kind", 1, {}, getattr(Maker(KeyError()), save))
    assert files(paths.cache_folder()) == [str(path.relative_to(paths.cache_folder()))]


@pytest.mark.parametrize("save", ["tensors", "array"])
@pytest.mark.parametrize("kept", [0, 20, -1])
def test_a_damaged_artefact_is_named(save: str, kept: int) -> None:
    call: Callable[..., object] = getattr(artefacts, save)
    call("kind", 1, {}, getattr(Maker(), save))
    (path,) = (p for p in paths.cache_folder().rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{re.escape(str(path))} in the cache is damaged .*: delete that file and call again"):
        call("kind", 1, {}, getattr(Maker(), save))
    path.unlink()
    call("kind", 1, {}, getattr(Maker(), save))


def test_another_key_kind_or_version_is_another_file() -> None:
    maker = Maker()
    keys: list[tuple[str, int, dict[str, object]]] = [
        ("k", 1, {"n": 3}), ("k", 1, {"n": 4}), ("k", 1, {"n": 3, "m": 1}), ("l", 1, {"n": 3}), ("k", 2, {"n": 3})
    ]  # fmt: skip
    for kind, version, key in keys * 2:
        artefacts.tensors(kind, version, key, maker.tensors)
    assert maker.calls == 5
    assert artefacts.digest("k", 1, {"a": 1, "b": 2}) == artefacts.digest("k", 1, {"b": 2, "a": 1})
    assert artefacts.digest("k", 1, {"a": 1}) != artefacts.digest("k", 1, {"a": "1"})


@pytest.mark.parametrize("save", ["tensors", "array"])
def test_a_failing_maker_leaves_no_file(save: str) -> None:
    maker = Maker(ValueError("no disk"))
    call: Callable[..., object] = getattr(artefacts, save)
    for _ in range(2):
        with pytest.raises(ValueError, match="no disk"):
            call("kind", 1, {}, getattr(maker, save))
    assert maker.calls == 2
    assert files(paths.cache_folder()) == []


def test_a_full_disk_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer fails after the first half."""

    def half(path: Path, _array: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    maker = Maker()
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", half)
        with pytest.raises(OSError, match="No space"):
            artefacts.array("kind", 1, {}, maker.array)
    assert files(paths.cache_folder()) == []
    assert artefacts.array("kind", 1, {}, maker.array).shape == (2, 3, 4)


def test_a_table_is_the_same_bytes() -> None:
    table = pd.DataFrame({"data": ["a,b", "é"], "share": [1 / 3, 1e-9], "n": [1, 2], "none": [np.nan, 100.0]})
    first = outputs.write_table(table, "t", "demo").read_bytes()
    assert outputs.write_table(table.copy(), "t", "demo").read_bytes() == first
    assert first == 'data,share,n,none\n"a,b",0.333333,1,\né,1e-09,2,100\n'.encode()
    assert files(paths.output_folder()) == ["results/demo/t.csv"]


def test_a_figure_is_the_same_bytes() -> None:
    contents = []
    for _ in range(2):
        figure, ax = plt.subplots(figsize=(1, 1))
        ax.plot([0, 1])
        contents.append(outputs.write_figure(figure, "f", "demo").read_bytes())
        plt.close(figure)
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"\x89PNG")
    assert files(paths.output_folder()) == ["figures/demo/f.png"]


def test_folders_without_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DFT_CACHE")
    monkeypatch.delenv("DFT_OUTPUT")
    root = Path(artefacts.__file__).parents[1]
    assert paths.cache_folder() == root / ".cache"
    assert paths.output_folder() == root
    assert "DFT_CACHE" not in os.environ


def test_a_cached_file_says_what_it_is() -> None:
    artefacts.tensors("kind", 1, {"n": 3}, Maker().tensors)
    (file,) = paths.cache_folder().rglob("*.safetensors")
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["key"]) == {"n": 3}
