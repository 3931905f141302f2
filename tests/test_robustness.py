"""Notebooks 07 to 09 on a few drawn faces: what the tables say is what the networks did."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from asked_keys import asked_key
from matplotlib.figure import Figure

from dftlib.datasets import FaceDataset, synthetic
from dftlib.errors import DataError
from dftlib.experiments.facial_attributes import robustness, tables
from dftlib.experiments.facial_attributes.robustness import AttributeLab, adversarial, loss_of, predictions
from dftlib.experiments.lab import Rows
from dftlib.experiments.profile import Profile, load_profile
from dftlib.metrics import similarity
from dftlib.models import attribute_networks
from dftlib.models.attribute_networks import EARLY, balance
from dftlib.perturbation import gradient, per_image
from dftlib.plots import facial_attributes

SIZE = 32


@pytest.fixture(scope="module")
def few(scratch: Path) -> Iterator[AttributeLab]:
    def drawn(name: str, root: str, shape: tuple[int, int]) -> FaceDataset:
        return synthetic.load(name, shape[0], 0, subjects=60, per_subject=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "load_attributes", drawn)
        patch.setenv("DFT_CACHE", str(scratch / "cache"))
        yield AttributeLab(profile())


def profile(**fields: Any) -> Profile:
    known = {"attribute_shape": [SIZE, SIZE], "attribute_epochs": 3, "attribute_batch": 12, "n_flip": 12}
    return load_profile("demo", **{**known, "n_fit": 60, "n_val": 30, "epochs": 2, **fields})


def truth(few: AttributeLab, rows: Rows) -> torch.Tensor:
    return torch.from_numpy(few.faces.labels.to_numpy()[rows]) == 1


def indexed(table: pd.DataFrame, *by: str) -> dict[Any, dict[str, Any]]:
    """The rows of a table by their keys."""
    return {tuple(row[c] for c in by) if len(by) > 1 else row[by[0]]: dict(row) for row in table.to_dict("records")}  # type: ignore[arg-type]


def test_each_attribute_has_its_network_and_moon_one_for_all(few: AttributeLab) -> None:
    """Network I answers for attribute I: its validation error is the one that was recorded for it in training."""
    count = len(few.names)
    rows = few.rows("val")
    images = few.faces.images[rows]
    for kind in ("euclidean", "softmax"):
        nets = few.networks(kind)
        assert len(nets) == count
        recorded = torch.cat([few.trained(kind, g)["errors"][EARLY - 1 :].amin(0) for g in few.groups()])
        said = torch.cat([predictions(net, images, loss_of(kind)) for net in nets], 1)
        found = (said != truth(few, rows)).double().mean(0)
        assert (found - recorded).abs().max() <= 1 / len(rows)  # bfloat16 in training may turn one answer
    (moon,) = few.networks("moon")
    assert predictions(moon, images, "euclidean").shape == (len(rows), count)


def test_no_picture_gets_no_answer(few: AttributeLab) -> None:
    for kind, outputs in (("euclidean", 1), ("softmax", 2), ("moon", 7)):
        assert robustness.scores(few.networks(kind)[0], torch.zeros(0, 3, SIZE, SIZE)).shape == (0, outputs)


def test_where_fgs_leads_away(few: AttributeLab) -> None:
    """Beyond its label a score can't be flipped by raising the loss, short of it most can."""
    table = indexed(tables.beyond(few), "score")
    short, past = table["between 0 and its label"], table["beyond its label"]
    assert short["n"] + past["n"] == few.flips("euclidean", "fgs", "line")["right"].sum()
    # On some processors these few steps of training leave no score beyond its label.
    assert past["n"] == 0 or past["FGS, iterative"] < short["FGS, iterative"]


def test_a_snapshot_is_another_network(few: AttributeLab) -> None:
    early, late = (few.test_predictions("euclidean", snapshot) for snapshot in ("two_epochs", "converged"))
    assert (early != late).any()


def test_domain_balancing_reaches_moon_s_training(few: AttributeLab) -> None:
    plain, balanced = (few.networks(kind)[0] for kind in ("moon", "moon_balanced"))
    assert not torch.equal(*(next(iter(net.parameters())) for net in (plain, balanced)))
    y = few.signs(few.rows("train"))
    assert (balance(y) < 1).any()


@pytest.mark.parametrize(
    ("kind", "method", "search"), [("euclidean", "ffa", "line"), ("softmax", "fgs", "iterative"), ("moon", "ffa", "iterative")]
)
def test_flips_are_those_of_the_rounded_pictures(few: AttributeLab, kind: str, method: str, search: str) -> None:
    found = few.flips(kind, method, search)
    nets, rows = few.networks(kind), few.sample
    said = torch.cat([predictions(net, few.faces.images[rows], loss_of(kind)) for net in nets], 1)
    assert torch.equal(found["right"], said == truth(few, rows))
    assert torch.equal(found["flipped"], found["claimed"])
    assert found["flipped"].any()
    assert torch.equal(found["flipped"], found["pass"].isfinite())
    assert torch.equal(found["flipped"], found["size"].isfinite())
    if kind != "softmax":
        others = found["others"]
        assert torch.equal(others.diagonal(dim1=1, dim2=2), found["flipped"])
        assert not others[~found["flipped"]].any()


def test_the_same_pictures_are_flipped_for_every_network(few: AttributeLab) -> None:
    rows = few.sample
    assert len(rows) == len(set(rows)) == 12
    assert set(rows) <= set(few.rows("train"))


def test_table_1_counts_what_flipped(few: AttributeLab) -> None:
    table = indexed(tables.flippability(few), *tables.ATTACK)
    assert len(table) == 2 * 2 * 5
    found = few.flips("softmax", "ffa", "line")
    for sign, of in (("+", found["right"]), ("-", ~found["right"])):
        row = table["Softmax", f"FFA{sign}", "line-search"]
        similar = found["flipped"] & (found["pass"] >= 0.95)
        assert row["pass_95"] == pytest.approx(100 * similar[of].double().mean().item())
        assert row["pass_0"] == pytest.approx(100 * found["flipped"][of].double().mean().item())
        assert row["total"] == of.sum()
        assert row["pass_95_lo"] <= row["pass_95"] <= row["pass_95_hi"]
    assert table["Euclidean", "FGS+", "line-search"]["published_pass_95"] == 23.0
    assert table["Softmax", "FFA-", "iterative"]["published_total"] == 2892


def test_figure_3_is_table_1_by_attribute(few: AttributeLab) -> None:
    table, whole = tables.success(few), indexed(tables.flippability(few), *tables.ATTACK)
    for (kind, mode), own in table.groupby(["adversarial_type", "mode"]):
        row = whole["Euclidean", kind, mode]
        assert own["n"].sum() == row["total"]
        assert (own["success"] * own["n"]).sum() / own["n"].sum() == pytest.approx(row["pass_95"])
    first = table[(table["adversarial_type"] == "FGS+") & (table["mode"] == "line-search")]["success"]
    assert first.dropna().is_monotonic_decreasing


def test_table_2_counts_pictures_at_both_snapshots(few: AttributeLab) -> None:
    table = indexed(tables.progress(few), "loss", "adversarial_type")
    early, late = (few.flips("euclidean", "ffa", "line", s) for s in ("two_epochs", "converged"))
    wrong = [adversarial(found) & ~found["right"] for found in (early, late)]
    row = table["Euclidean", "FFA-"]
    assert [row[c] for c in ("two_epochs", "converged", "overlap")] == [*(w.sum() for w in wrong), (wrong[0] & wrong[1]).sum()]
    assert row["learned"] == pytest.approx(100 * late["right"][wrong[0] & ~wrong[1]].double().mean().item(), nan_ok=True)
    assert table["Softmax", "FFA+"]["published_overlap"] == 15259


def test_a_column_of_figures_4_and_5_is_the_attribute_the_images_were_made_for(few: AttributeLab) -> None:
    table = tables.others(few, "moon", "line")
    found = few.flips("moon", "ffa", "line")
    made = adversarial(found)
    names = few.names
    for a, column in enumerate(names):
        for b, row in enumerate(names):
            assert table.loc[row, column] == pytest.approx(
                100 * found["others"][made[:, a], a, b].double().mean().item(), nan_ok=True
            )


def test_an_attribute_without_adversarial_images_is_empty(few: AttributeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = few.flips("moon", "ffa", "line")
    found["pass"][:, 2] = 0.5
    monkeypatch.setattr(few, "flips", lambda *_: found)
    table = tables.others(few, "moon", "line")
    assert table.iloc[:, 2].isna().all()
    assert table.drop(columns=table.columns[2]).notna().all(axis=None)


def test_how_far_a_matrix_follows_the_labels(few: AttributeLab) -> None:
    names = few.names
    labels = few.signs(few.rows("train")).numpy()
    alike = pd.DataFrame(np.abs(np.corrcoef(labels.T)), names, names)
    table = tables.related(few, {"same": 100 * alike, "opposite": 100 - 100 * alike}).set_index("matrix")
    assert table["follows"].tolist() == pytest.approx([1, -1], abs=1e-3)  # rounding parts pairs that tie
    assert table["pairs"].tolist() == [7 * 6] * 2


def test_figure_2_compares_with_the_majority_of_the_training_pictures(few: AttributeLab) -> None:
    table = indexed(tables.errors(few), "approach", "attribute")
    train, test = (truth(few, few.rows(split)).double().numpy() for split in ("train", "test"))
    for i, name in enumerate(few.names):
        majority = float(train[:, i].mean() > 0.5)
        assert table[tables.TRIVIAL, name]["error"] == pytest.approx(100 * (test[:, i] != majority).mean())
    said = few.test_predictions("softmax", "converged")
    errors = 100 * (said != (test == 1)).mean(0)
    found = [table["Separate networks (softmax)", name]["error"] for name in few.names]
    assert found == pytest.approx(errors.tolist())
    own = [row["error"] for (approach, _), row in table.items() if approach == tables.SEPARATE]
    assert own == sorted(own)
    assert {row["epoch"] for row in table.values()} <= {0, 2, 3}


def test_the_difference_to_separate_networks_has_its_interval(few: AttributeLab) -> None:
    table = indexed(tables.error_tests(few), "approach")
    separate = table[tables.SEPARATE]
    for name, row in table.items():
        assert row["difference"] == pytest.approx(row["mean_error"] - separate["mean_error"])
        assert name == tables.SEPARATE or row["difference_lo"] <= row["difference"] <= row["difference_hi"]
    assert table["MOON"]["published"] == 9.06
    assert table[tables.TRIVIAL]["published"] == 19.96


def test_one_perturbation_for_all_is_measured_on_test_pictures(few: AttributeLab) -> None:
    table = tables.universal(few).set_index("attribute")
    assert list(table.index) == few.names
    for i, (name, row) in enumerate(table.iterrows()):
        kept = few.universal(i)
        n, net = kept["n"], few.networks("euclidean")[i]
        images = torch.from_numpy(few.faces.images[few.rows("test")])
        lit = images.double() / 255 * torch.exp(2 * n.double())
        tuned = (255 * lit / (1 - images.double() / 255 + lit)).round().to(torch.uint8)
        right, after = (predictions(net, x, "euclidean")[:, 0] == truth(few, few.rows("test"))[:, i] for x in (images, tuned))
        assert row["mistakes"] == (~right).sum(), name
        assert abs(row["broken"] - 100 * (~after)[right].double().mean().item()) < 100 * 1.5 / int(right.sum())
        assert row["psnr"] == pytest.approx(similarity.psnr(images / 255, tuned / 255).mean().item(), abs=0.05)
        assert row["bound"] >= row["before"]
    assert (table["mistakes"] > 0).any()


def test_examples_show_what_they_say(few: AttributeLab) -> None:
    shown = tables.examples(few)
    assert [x.title[:3] for x in shown] == ["(a)", "(b)", "(c)", "(d)"]
    for x in shown:
        said = float(x.caption.split("PASS ")[1].split("\n")[0].split(" ")[0])
        found = similarity.pass_score(x.before[None] / 255, x.after[None] / 255)
        assert said == pytest.approx(float(found), abs=1e-4)
        assert not torch.equal(x.before, x.after)


def test_every_figure_holds_its_table(few: AttributeLab) -> None:
    names = few.names

    def labels(figure: Figure) -> set[str]:
        return {text.get_text() for ax in figure.axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels())}

    errors = tables.errors(few)
    figure = facial_attributes.errors(errors)
    assert set(names) <= labels(figure)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    wanted = errors[errors["approach"] == "MOON"]["error"].tolist()
    (moon,) = (y for label, y in drawn.items() if str(label).startswith("MOON ("))
    assert sorted(np.asarray(moon).tolist()) == pytest.approx(sorted(wanted))
    assert set(names) <= labels(facial_attributes.success(tables.success(few)))
    assert len(facial_attributes.flippability(tables.flippability(few)).axes) == 8
    matrix = tables.others(few, "moon", "iterative")
    heat = facial_attributes.influence(matrix, "MOON").axes[0].collections[0].get_array()
    assert heat is not None
    assert np.allclose(np.ma.filled(heat, np.nan).ravel(), matrix.to_numpy().ravel(), equal_nan=True)
    assert set(names) <= labels(facial_attributes.universal(tables.universal(few)))
    assert len(facial_attributes.examples(tables.examples(few)).axes) == 4


def test_an_unknown_network_is_said(few: AttributeLab) -> None:
    with pytest.raises(DataError, match="choose convnets or vgg16"):
        AttributeLab(load_profile("demo", attribute_network="resnet")).stack(1, 1)


def test_vgg16_stands_alone() -> None:
    for name, groups in (("paper", [[0], [1], [2]]), ("demo", [[0, 1, 2]])):
        lab = AttributeLab(load_profile(name, attribute_data="studio", attribute_shape=[64, 64], device="cpu"))
        lab.names = ["a", "b", "c"]
        assert lab.groups() == groups


ASKS: dict[str, Callable[[AttributeLab], object]] = {
    "networks": lambda lab: lab.trained("softmax", lab.groups()[0]),
    "predictions": lambda lab: lab.test_predictions("euclidean", "converged"),
    "flips": lambda lab: lab.flips("euclidean", "ffa", "line"),
    "universal": lambda lab: lab.universal(0),
}
FITS = {"box": "clip", "distance": "sum", "weight": 2, "min_psnr": 20, "temperature": 0.5, "balance": True, "optimiser": "adam"}
FITS |= {"mirror": False, "learning_rate": 0.1, "batch_size": 7, "inner_steps": 3, "steps": 9, "epochs": 9, "patience": 9}
# Which artefacts have another key where a number differs: constants by module, then fields of the profile.
CONSTANTS: dict[ModuleType, dict[str, tuple[Any, set[str]]]] = {
    attribute_networks: {
        name: (9, set(ASKS)) for name in ("WIDTHS", "STRIDES", "EARLY", "PATIENCE", "SMOOTHING", "DECAY", "POWER")
    },
    per_image: {name: (9, {"flips", "universal"}) for name in ("LIMIT", "STEPS", "FINE", "SURE")},
    similarity: {name: (9, {"flips", "universal"}) for name in ("GREY", "ITERATIONS", "EPSILON")},
    robustness: {"TOGETHER": (3, set(ASKS)), "COMPARED": (9, {"universal"})},
    gradient: {"key": (lambda _: {"pool": 9}, {"universal"})},
}  # fmt: skip
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "attribute_network": ("vgg16", set(ASKS)), "attribute_shape": ([SIZE, 40], set(ASKS)), "attribute_epochs": (9, set(ASKS)),
    "attribute_learning_rate": (0.5, set(ASKS)), "attribute_batch": (9, set(ASKS)), "n_train": (50, set(ASKS)),
    "seeds": ([1], set(ASKS)), "n_flip": (9, {"flips"}), "n_test": (20, {"predictions", "universal"}),
    "n_fit": (9, {"universal"}), "n_val": (9, {"universal"}), **{name: (value, {"universal"}) for name, value in FITS.items()},
}  # fmt: skip


def keys(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, str]:
    """By artefact its key, for a profile with these fields; nothing is computed."""
    lab = AttributeLab(profile(**changes))
    assert lab.names  # the data set is drawn before
    return {name: asked_key(partial(ask, lab), monkeypatch) for name, ask in ASKS.items()}


def other(a: dict[str, str], b: dict[str, str]) -> set[str]:
    return {name for name in a if a[name] != b[name]}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in CONSTANTS.items() for name in names])
def test_a_constant_that_changes_a_result_is_in_its_key(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, (value, wanted) = keys(monkeypatch), CONSTANTS[module][name]
    monkeypatch.setattr(module, name, value)
    assert other(before, keys(monkeypatch)) == wanted


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_profile_that_changes_a_result_is_in_its_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, wanted = FIELDS[name]
    assert other(keys(monkeypatch), keys(monkeypatch, **{name: value})) == wanted


@pytest.mark.usefixtures("few")
def test_keys_hold_the_precision_and_nothing_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    single, half = (keys(monkeypatch, precision=precision) for precision in ("float32", "bfloat16"))
    assert other(single, half) == set(ASKS)
    assert not other(single, keys(monkeypatch, precision="float32", data_root="/elsewhere", head_epochs=99))


def test_every_other_constant_bounds_memory_or_names_choices() -> None:
    free = {
        attribute_networks: set(), per_image: {"METHODS", "SEARCHES", "BATCH", "ON_GPU"}, similarity: {"CHUNK", "ON_GPU"},
        robustness: {"TAU"},
    }  # fmt: skip
    for module, names in free.items():
        assert {name for name in vars(module) if len(name) > 1 and name.isupper()} == names | set(CONSTANTS[module])
