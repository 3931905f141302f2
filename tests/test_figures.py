"""Figures say what they should, overlap nowhere, show nobody who shouldn't be shown, and leave matplotlib as it was."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from dftlib.datasets import ATTRIBUTES, FaceDataset
from dftlib.datasets.base import Faces
from dftlib.experiments.outcome import ON_N, REMEDIES
from dftlib.perturbation.perturbation import Perturbation
from dftlib.plots import data_finetuning, digits, illustration, studies, style
from dftlib.plots.illustration import example
from dftlib.plots.style import Block, Panel

mpl.use("Agg")
SIZE, NOTE = 24, "synthetic faces"
NAMES = ("Smiling", "Bushy Eyebrows", "Pale Skin", "Smiling", "Attractive", "Wearing Lipstick")


def panel(title: str = "Smiling: LFW by CelebA", n: int = 300) -> Panel:
    g = np.random.default_rng(n)
    labels = g.integers(0, 2, n)
    before, after = g.beta(1, 0.8, n), np.where(labels == 1, g.beta(2, 0.6, n), g.beta(0.6, 2, n))
    return Panel(title, torch.from_numpy(before).float(), after, labels)


def faces(name: str = "studio", people: int = 30) -> FaceDataset:
    """Two pictures a person; MUCT's people are 0, 100, 200 … 900 and 1, 101 …, and only who may be shown is not red."""
    subjects = np.repeat([f"{100 * (i % 10) + i // 10:03d}" for i in range(people)], 2)
    images = np.random.default_rng(0).integers(0, 200, (len(subjects), 3, SIZE, SIZE)).astype(np.uint8)
    images[~np.isin(subjects, style.MUCT_SHOWABLE)] = np.array([255, 0, 0], np.uint8)[:, None, None]
    labels = pd.DataFrame({a: np.arange(len(subjects)) // 2 % 2 for a in ATTRIBUTES}, dtype="int8")
    return FaceDataset(name, images, labels, subjects, np.full(len(subjects), "test"), subjects)


def seen() -> FaceDataset:
    data = faces()
    eyes = np.full((len(data), 2, 2), [[0.3, 0.4], [0.7, 0.4]])
    return replace(data, faces=Faces(data.images, eyes, np.ones(len(data), bool)))


def perturbation(scale: float = 0.0) -> Perturbation:
    return Perturbation(scale * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))


def block(name: str = "studio", title: str = "Smiling") -> Block:
    data = faces(name)
    return Block(panel(title, len(data)), data, np.arange(len(data)), perturbation())


def table(published: bool = True, seeds: int = 1) -> pd.DataFrame:
    rows = [
        {
            "data": data,
            "model": model,
            "attribute": attribute,
            "protocol": "subject",
            "seed": seed,
            "trivial": 58.0,
            "threshold": 68.0,
        }
        | {"before": 62.0, "before_lo": 60.0, "before_hi": 64.0, "after": 81.0 + i, "after_lo": 79.0 + i, "after_hi": 82.5 + i}
        | {"rise": 19.0 + i, "rise_lo": 16.0 + i, "rise_hi": 22.0 + i}
        | ({"published_before": 55.3, "published_after": 78.6} if published else {})
        for i, attribute in enumerate(NAMES)
        for seed in range(seeds)
        for data, model in [("LFW", "CelebA") if i < 3 else ("CelebA", "LFW")]
    ]
    return pd.DataFrame(rows)


CELLS = [("Gender", "lfw", "celeba"), ("Gender", "muct", "celeba"), ("Smiling", "lfw", "celeba")]


def limits(value: float, reach: float, name: str = "after") -> dict[str, float]:
    return {name: value, f"{name}_lo": value - reach, f"{name}_hi": value + reach}


def budgets(cells: int) -> pd.DataFrame:
    rows = [
        {"attribute": a, "data": d, "model": m, "method": method, "labels": n, "all": n > 5000, "draw": draw, "before": 60.0}
        | limits(62 + 5 * i + j + draw, 2)
        for a, d, m in CELLS[:cells]
        for i, method in enumerate(("data", "head", "all layers"))
        for j, n in enumerate((32, 128, 512, 5800))
        for draw in range(2 if n < 5000 else 1)
    ]
    return pd.DataFrame(rows)


def rounds() -> pd.DataFrame:
    rows = [
        {"attribute": a, "data": d, "model": m, "way": way, "round": n} | limits(60 + 4 * n + i, 2)
        for a, d, m in CELLS[:2]
        for i, way in enumerate(("data", "head", "both"))
        for n in range(5)
    ]
    return pd.DataFrame(rows)


def frontier() -> pd.DataFrame:
    rows = [
        {"attribute": a, "data": d, "model": m, "rule": rule, "value": value, "before": 50.0}
        | {
            "psnr": np.inf if value == 36 else value if rule == "limit" else 15 + value**0.5,
            "ssim": 0.5 + i / 12,
            "pass": 0.6 + i / 13,
        }
        | limits(85 - 6 * i - 9 * (rule != "limit"), 2)
        for a, d, m in CELLS[:2]
        for rule, values in {"limit": (22, 25, 28.5, 32, 36), "mean": (10, 100, 300), "sum": (1,)}.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def controls() -> pd.DataFrame:
    rows = [
        {"table": 5, "attribute": a, "data": d, "model": m, "control": control} | limits(10.0 - i, 3, "over")
        for a, d, m in CELLS
        for i, control in enumerate(("before", *REMEDIES, *ON_N, "oracle"))
        if (d, control) != ("muct", "shuffled")
    ]
    return pd.DataFrame(rows)


def misplaced() -> pd.DataFrame:
    cuts = [("moved", f"{n} % {way}") for n in (20, 10) for way in ("up", "down")] + [("moved", "in place")]
    cuts += [("scaled", f"{s:g} x") for s in (0.75, 1, 1.25, 1.5)] + [("other", "usual crop"), ("other", "whole picture")]
    rows = [
        {"attribute": a, "data": d, "model": m, "change": change, "cut": cut, "trivial": 60.0}
        | {"middle": 50.0, "line": 30.0 + 2 * i, "distance": 38.0 - i}
        | limits(70 - i, 3, "before") | limits(72 - i, 3, "threshold") | limits(88 - i, 2)
        | limits(91, 2, "aligned") | limits(93, 2, "aligned_after")
        for a, d, m in CELLS[:2]
        for i, (change, cut) in enumerate(cuts)
    ]  # fmt: skip
    return pd.DataFrame(rows)


SCANS = {"as trained": "offsets", "uneven light": "aligned_matched", "noise": "as it is"}


def scans() -> pd.DataFrame:
    rows = [
        {"scanner": scanner, "best_remedy": remedy, "majority": 9.0}
        | limits(80 - 20 * i, 4, "before") | limits(90, 3, "best") | limits(92 - 30 * i, 3) | limits(94, 2, "own")
        for i, (scanner, remedy) in enumerate(SCANS.items())
    ]  # fmt: skip
    return pd.DataFrame(rows)


PAIR = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)


def card() -> pd.DataFrame:
    rows = [
        {"table": t, "attribute": a, "data": "lfw", "model": "celeba", "published_rise": 20.0 - i, "sign_agrees": i > 0}
        | limits(2.0 + 2 * i, 3, "rise")
        | {"beats_remedies": ("yes", "no", "open")[i], "over_best": (3.0, -1.0, 1.0)[i]}
        for t in (2, 3, 4, 5, 6)
        for i, a in enumerate(NAMES[:3])
    ]
    return pd.DataFrame(rows)


SIX = [panel(f"{name}: {cell}") for name, cell in zip(NAMES, ["LFW by CelebA"] * 3 + ["CelebA by LFW"] * 3, strict=True)]
EIGHT = torch.from_numpy(faces().images[:8])
SHARES = np.arange(16).reshape(2, 8) / 16
PUBLISHED = [np.arange(8.0).reshape(2, 2, 2) + 10] * 3
made = cache(example)
FIGURES: dict[str, tuple[Callable[[str], Figure], set[str]]] = {
    "samples": (lambda note: data_finetuning.samples([faces(), faces("muct")], note=note), {"female", "male"}),
    "mean faces": (
        lambda note: data_finetuning.mean_faces(dict.fromkeys(("the usual crops", "by landmarks"), [seen()] * 3), note),
        {"studio, 60 faces", "by landmarks\nshare of the height"},
    ),
    "examples": (
        lambda note: data_finetuning.examples(EIGHT, EIGHT, SHARES, "Gender: press by studio", note),
        {"before", "after", "10 × change", "0.00", "0.94", "Gender: press by studio"},
    ),
    "perturbations": (
        lambda note: data_finetuning.perturbations([(f"{a}: LFW", perturbation(0.1)) for a in NAMES[:3]], note),
        {"luminance of N (half log-odds)", "N, each stretched"},
    ),
    "one perturbation": (
        lambda note: data_finetuning.perturbations([("Smiling: LFW", perturbation(0.1))], note),
        {"luminance of N"},
    ),
    "corrected": (
        lambda note: data_finetuning.corrected([block(title=f"{a}: LFW by CelebA") for a in NAMES[:3]], note=note),
        {"before", "after", "below each: score of its true class"},
    ),
    "one distribution": (
        lambda note: data_finetuning.score_distributions(SIX[:1], note),
        {"absent", "present", "decision boundary", "score of 'present'", "share of class (%)"},
    ),
    "distributions": (
        lambda note: data_finetuning.score_distributions(SIX, note=note),
        {"absent", "present", "score of 'present'"},
    ),
    "four distributions": (lambda note: data_finetuning.score_distributions(SIX[:4], note=note), {"absent", "present"}),
    "roc": (
        lambda note: data_finetuning.roc_curves(SIX, note),
        {"before", "after", "chance", "threshold 0.5", "false positive rate (%)", "true positive rate (%)"},
    ),
    "one roc": (lambda note: data_finetuning.roc_curves(SIX[:1], note), {"before", "after", "chance", "threshold 0.5"}),
    "four rocs": (lambda note: data_finetuning.roc_curves(SIX[:4], note), {"chance"}),
    "confusion": (
        lambda note: data_finetuning.confusion(SIX[:3], PUBLISHED, note=note),
        {"true class", "present", "absent", "(17.0)"},
    ),
    "one confusion": (lambda note: data_finetuning.confusion(SIX[:1], note=note), {"predicted (% of true class)"}),
    "rise": (
        lambda note: data_finetuning.rise(table(), note),
        {"before", "after", "before, in the paper", "after, in the paper", "majority class", "best threshold alone"}
        | {"Smiling: LFW by CelebA", "+19.0 [+16.0, +22.0]", "accuracy (%) with 95 % interval"},
    ),
    "rise of seeds": (lambda note: data_finetuning.rise(table(False, 3), note), {"Attractive: CelebA by LFW, seed 2"}),
    "rise of groups": (
        lambda note: data_finetuning.rise(
            pd.concat([table(False).assign(group=g) for g in ("women", "men")]).drop(columns=["trivial", "threshold"]), note
        ),
        {"Attractive: CelebA by LFW, women"},
    ),
    "label budgets": (
        lambda note: studies.label_budgets(budgets(3), note),
        {
            "data fine-tuning",
            "model fine-tuning, all layers",
            "before",
            "labelled pictures",
            "all\n5,800",
            "Smiling: lfw by celeba",
        },
    ),
    "two label budgets": (lambda note: studies.label_budgets(budgets(2), note), {"accuracy on test pictures (%)"}),
    "rounds": (lambda note: studies.rounds(rounds(), note), {"both in turn", "round", "accuracy on test pictures (%)"}),
    "frontier": (
        lambda note: studies.frontier(frontier(), note),
        {
            "PSNR (dB)",
            "SSIM",
            "PASS",
            "before",
            "300",
            "distance summed, as printed",
            "Gender: lfw by celeba; N = 0 kept in 1 of 9 fits",
        },
    ),
    "controls": (
        lambda note: studies.controls(controls(), note),
        {"Gender: muct by celeba", "colour threshold", "+10.0", "accuracy under N less the control's (points)"},
    ),
    "misplaced": (
        lambda note: studies.misplaced(misplaced(), note),
        {"20 % up", "in place", "1.5 x", "whole\npicture", "as they are", "aligned, and N", "Gender: muct by celeba"}
        | {"crop moved, share of its width", "accuracy on test pictures (%)"},
    ),
    "scorecard": (
        lambda note: studies.scorecard(card(), note),
        {
            "A clear rise in 8 of 12 cells, clearly ahead of every simple remedy in 4",
            "the paper",
            "ours: no better than a simple remedy",
            "ours: ahead, but not clearly",
            "Table 5: Gender, other data",
            "Pale Skin: lfw by celeba",
        },
    ),
    "digits": (
        lambda note: digits.digits(scans(), dict.fromkeys(SCANS, (PAIR, PAIR[0], PAIR + 255)), note),
        {
            "scanned",
            "N",
            "with N",
            "as it is",
            "classifier of this scanner",
            "uneven light\n(aligned,\nmatched)",
            "noise\n(none)",
        },
    ),
    "two ways": (
        lambda note: illustration.two_ways(made(), note=note),
        {"absent", "present", "decision boundary", "before fine-tuning", "first pixel", "second pixel"},
    ),
    "score path": (
        lambda note: illustration.score_path(made(), note=note),
        {"absent", "present", "first pixel", "second pixel", "score of 'present'", "(f) scores of Z = X + N"},
    ),
}


def drawn(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that reaches the canvas, with its box in pixels."""
    found: list[tuple[str, Bbox]] = []
    draw = Text.draw

    def spy(text: Text, renderer: RendererBase, *args: object, **kwargs: object) -> None:
        if text.get_visible() and text.get_text():
            found.append((text.get_text(), text.get_window_extent(renderer)))
        draw(text, renderer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", spy)
        FigureCanvasAgg(figure).draw()
    return found


def pixels(figure: Figure) -> NDArray[np.uint8]:
    return np.concatenate([np.asarray(image.get_array()).reshape(-1, 3) for ax in figure.axes for image in ax.images])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_labelled_legible_and_leaves_no_trace(name: str) -> None:
    make, wanted = FIGURES[name]
    plt.close("all")
    parameters = dict(mpl.rcParams)
    figure = make(NOTE)
    assert dict(mpl.rcParams) == parameters
    assert plt.get_fignums() == []
    texts = drawn(figure)
    assert wanted | {NOTE} <= {text for text, _ in texts}
    assert figure.get_size_inches()[0] <= style.PAGE
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in texts:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (text, box), (other, other_box) in combinations(texts, 2):
        inside = Bbox.intersection(box, other_box)
        assert inside is None or min(inside.width, inside.height) <= 1, f"'{text}' over '{other}'"


def test_a_figure_looks_the_same_whatever_the_users_style_is() -> None:
    plain = drawn(data_finetuning.rise(table()))
    with plt.rc_context({"font.size": 20, "xtick.labelsize": 30, "figure.dpi": 60}):
        styled = drawn(data_finetuning.rise(table()))
    assert [text for text, _ in styled] == [text for text, _ in plain]
    assert np.allclose([box.bounds for _, box in styled], [box.bounds for _, box in plain])


def test_a_failing_figure_is_closed_too() -> None:
    with pytest.raises(KeyError):
        data_finetuning.rise(table().drop(columns="before"))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", ["muct", "MUCT", "muct-cropped"])
def test_of_muct_only_the_people_its_authors_name_are_showable(name: str) -> None:
    data = faces(name)
    rows = np.arange(len(data))[::-1]
    shown = style.showable(data, rows)
    assert set(data.subjects[shown]) == set(style.MUCT_SHOWABLE) & set(data.subjects)
    assert (np.diff(shown) < 0).all()  # in the order asked for
    assert (style.showable(faces("lfw"), rows) == rows).all()


@pytest.mark.parametrize("seed", range(2))
def test_no_figure_lets_another_face_of_muct_through(seed: int) -> None:
    everyone = 60  # more than there are, so that nobody is left out by chance
    for figure in (
        data_finetuning.samples([faces("muct")], everyone, seed),
        data_finetuning.corrected([block("muct")], everyone, seed),
    ):
        assert not (pixels(figure) == [255, 0, 0]).all(1).any()
    assert (pixels(data_finetuning.samples([faces("lfw")], everyone, seed)) == [255, 0, 0]).all(1).any()


def test_people_are_shown_once_before_any_twice() -> None:
    data = faces()
    chosen = style.some_faces(data, np.arange(len(data)), 30, 0)
    assert len(set(data.subjects[chosen])) == 30


def test_corrected_shows_what_was_set_right_with_its_scores() -> None:
    data = faces()
    rows = np.array([5, 9, 20, 31])
    data.images[rows] = np.array([10, 20, 30, 40], np.uint8)[:, None, None, None]
    shown = Panel(
        "Smiling", [0.2, 0.9, 0.7, 0.1], [0.81, 0.9, 0.04, 0.3], np.array([1, 1, 0, 1])
    )  # set right: the 1st and the 3rd
    figure = data_finetuning.corrected([Block(shown, data, rows, perturbation())])
    assert set(np.unique(pixels(figure))) == {10, 30, 255}
    texts = [text for text, _ in drawn(figure)]
    assert {"0.20", "0.81", "0.30", "0.96", "Smiling: of 4 pictures 2 set right, 0 set wrong"} <= set(texts)


def test_corrected_without_any_picture_is_still_a_figure() -> None:
    wrong = Panel("Smiling", [0.2, 0.2], [0.2, 0.2], np.array([1, 1]))
    figure = data_finetuning.corrected([Block(wrong, faces(), np.array([0, 1]), perturbation())])
    assert "Smiling: of 2 pictures 0 set right, 0 set wrong" in [text for text, _ in drawn(figure)]


def test_numbers_in_the_figures_are_those_of_the_scores() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    small = Panel("P", [0.1, 0.2, 0.3, 0.8, 0.7, 0.9], [0.1, 0.2, 0.3, 0.4, 0.8, 0.9], labels)
    cells = data_finetuning.confusion([small]).axes[0]
    assert cells.get_title() == "P\nbefore: 83.3 % right"
    found = {tuple(text.xy): text.get_text() for text in cells.texts if isinstance(text, Annotation)}
    assert found == {(0, 0): "100.0", (1, 0): "0.0", (0, 1): "25.0", (1, 1): "75.0"}  # (predicted, true), 'present' first
    assert data_finetuning.roc_curves([small]).axes[0].get_title() == "P\narea 0.875 → 1.000"
    before = data_finetuning.score_distributions([small]).axes[0]
    heights = [bar.get_height() for bar in before.patches if isinstance(bar, Rectangle)]
    assert sorted(heights)[-7:] == [0, 25, 25, 25, 25, 50, 50]
