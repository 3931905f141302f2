"""Bars and sliders: there for whoever watches, silent where nobody does, and faces that follow a slider."""

import io
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from tqdm import notebook

from dftlib import progress
from dftlib.plots import widgets


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(strength: float, weight: float) -> Figure:
    figure = plt.figure(figsize=(1 + strength, 1 + weight / 100))
    plt.close(figure)
    return figure


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")


@pytest.fixture(autouse=True)
def papermill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)


@pytest.mark.parametrize(("file", "shows"), [(Screen(), True), (io.StringIO(), False)])
def test_a_bar_is_shown_in_a_terminal_alone(file: io.StringIO, shows: bool) -> None:
    assert list(progress.tqdm(range(3), desc="steps", file=file)) == [0, 1, 2]
    assert ("steps: 100%" in file.getvalue()) == shows


def test_a_silent_bar_is_silent() -> None:
    file = Screen()
    assert list(progress.tqdm(range(3), silent=True, file=file)) == [0, 1, 2]
    assert file.getvalue() == ""


def test_jupyter_shows_a_widget(jupyter: None, capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress.tqdm(range(3), desc="steps")
    assert isinstance(bar, notebook.tqdm)
    assert list(bar) == [0, 1, 2]
    assert bar.container.children[1].value == 3


def test_without_jupyter_the_picture_stands_still() -> None:
    found = widgets.strength_and_weight(drawn, (10, 100))
    assert isinstance(found, Figure)
    assert tuple(found.get_size_inches()) == (2, 1)


def test_the_picture_follows_both_sliders(jupyter: None) -> None:
    box: Any = widgets.strength_and_weight(drawn, (10, 100))
    (strength, weight, said), picture = box.children[0].children, box.children[1]

    def size() -> tuple[float, ...]:
        png: bytes = picture.value
        return tuple(int.from_bytes(png[i : i + 4], "big") / 150 for i in (16, 20))  # of a PNG's header

    assert size() == (2, 1)
    strength.value = 3
    assert size() == (4, 1)
    assert [label for label, _ in weight.options] == ["own fit", "10", "100"]
    weight.value = 100
    assert size() == (4, 2)
    assert said.value == ""
