"""Notebooks 07 to 09 on a few drawn faces: what the tables say is what the networks did."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from dftlib import attribute_figures, attribute_tables, robustness, similarity
from dftlib.attributes import EARLY, balance
from dftlib.config import DataError, Profile, load_profile
from dftlib.datasets import FaceDataset, synthetic

SIZE = 32


@pytest.fixture(scope="module")
def few(scratch: Path) -> Iterator[Profile]:
    kept = (
        robustness.faces, robustness.rows_of, robustness._signature, robustness.networks, robustness.sample, robustness._said,
        attribute_tables.wrong,
    )  # fmt: skip

    def drawn(name: str, root: str, shape: tuple[int, int]) -> FaceDataset:
        return synthetic.load(name, shape[0], 0, subjects=60, per_subject=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "load_attributes", drawn)
        patch.setenv("DFT_CACHE", str(scratch / "cache"))
        for cached in kept:
            cached.cache_clear()
        yield load_profile(
            "demo", attribute_shape=[SIZE, SIZE], attribute_epochs=3, attribute_batch=12, n_flip=12, n_fit=60, n_val=30, epochs=2
        )
        for cached in kept:
            cached.cache_clear()


def truth(few: Profile, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(robustness.faces(few).labels.to_numpy()[rows]) == 1


def indexed(table: pd.DataFrame, *by: str) -> dict[Any, dict[str, Any]]:
    """The rows of a table by their keys."""
    return {tuple(row[c] for c in by) if len(by) > 1 else row[by[0]]: dict(row) for row in table.to_dict("records")}  # type: ignore[arg-type]


def test_each_attribute_has_its_network_and_moon_one_for_all(few: Profile) -> None:
    """Network I answers for attribute I: its validation error is the one that was recorded for it in training."""
    count = len(robustness.names(few))
    rows = robustness.rows_of(few, "val")
    images = robustness.faces(few).images[rows]
    for kind in ("euclidean", "softmax"):
        nets = robustness.networks(few, kind)
        assert len(nets) == count
        recorded = torch.cat(
            [robustness.trained(few, kind, tuple(g))["errors"][EARLY - 1 :].amin(0) for g in robustness.groups(few)]
        )
        said = torch.cat([robustness.answers(net, images, robustness.loss_of(kind)) for net in nets], 1)
        found = (said != truth(few, rows)).double().mean(0)
        assert (found - recorded).abs().max() <= 1 / len(rows)  # bfloat16 in training may turn one answer
    (moon,) = robustness.networks(few, "moon")
    assert robustness.answers(moon, images, "euclidean").shape == (len(rows), count)


def test_no_picture_gets_no_answer(few: Profile) -> None:
    for kind, outputs in (("euclidean", 1), ("softmax", 2), ("moon", 7)):
        assert robustness.scores(robustness.networks(few, kind)[0], torch.zeros(0, 3, SIZE, SIZE)).shape == (0, outputs)


def test_where_fgs_leads_away(few: Profile) -> None:
    """Beyond its label a score can't be flipped by raising the loss, short of it most can."""
    table = indexed(attribute_tables.beyond(few), "score")
    short, past = table["between 0 and its label"], table["beyond its label"]
    assert short["n"] + past["n"] == robustness.flips(few, "euclidean", "fgs", "line")["right"].sum()
    # On some processors these few steps of training leave no score beyond its label.
    assert past["n"] == 0 or past["FGS, iterative"] < short["FGS, iterative"]


def test_a_snapshot_is_another_network(few: Profile) -> None:
    early, late = (robustness.test_answers(few, "euclidean", snapshot) for snapshot in ("two_epochs", "converged"))
    assert (early != late).any()


def test_domain_balancing_reaches_moon_s_training(few: Profile) -> None:
    plain, balanced = (robustness.networks(few, kind)[0] for kind in ("moon", "moon_balanced"))
    assert not torch.equal(*(next(iter(net.parameters())) for net in (plain, balanced)))
    y = robustness.signs(few, robustness.rows_of(few, "train"))
    assert (balance(y) < 1).any()


@pytest.mark.parametrize(
    ("kind", "method", "search"), [("euclidean", "ffa", "line"), ("softmax", "fgs", "iterative"), ("moon", "ffa", "iterative")]
)
def test_flips_are_those_of_the_rounded_pictures(few: Profile, kind: str, method: str, search: str) -> None:
    found = robustness.flips(few, kind, method, search)
    nets, rows = robustness.networks(few, kind), robustness.sample(few)
    said = torch.cat([robustness.answers(net, robustness.faces(few).images[rows], robustness.loss_of(kind)) for net in nets], 1)
    assert torch.equal(found["right"], said == truth(few, rows))
    assert torch.equal(found["flipped"], found["claimed"])
    assert found["flipped"].any()
    assert torch.equal(found["flipped"], found["pass"].isfinite())
    assert torch.equal(found["flipped"], found["size"].isfinite())
    if kind != "softmax":
        others = found["others"]
        assert torch.equal(others.diagonal(dim1=1, dim2=2), found["flipped"])
        assert not others[~found["flipped"]].any()


def test_the_same_pictures_are_flipped_for_every_network(few: Profile) -> None:
    rows = robustness.sample(few)
    assert len(rows) == len(set(rows)) == 12
    assert set(rows) <= set(robustness.rows_of(few, "train"))


def test_table_1_counts_what_flipped(few: Profile) -> None:
    table = indexed(attribute_tables.flippability(few), *attribute_tables.ATTACK)
    assert len(table) == 2 * 2 * 5
    found = robustness.flips(few, "softmax", "ffa", "line")
    for sign, of in (("+", found["right"]), ("-", ~found["right"])):
        row = table["Softmax", f"FFA{sign}", "line-search"]
        similar = found["flipped"] & (found["pass"] >= 0.95)
        assert row["pass_95"] == pytest.approx(100 * similar[of].double().mean().item())
        assert row["pass_0"] == pytest.approx(100 * found["flipped"][of].double().mean().item())
        assert row["total"] == of.sum()
        assert row["pass_95_lo"] <= row["pass_95"] <= row["pass_95_hi"]
    assert table["Euclidean", "FGS+", "line-search"]["published_pass_95"] == 23.0
    assert table["Softmax", "FFA-", "iterative"]["published_total"] == 2892


def test_figure_3_is_table_1_by_attribute(few: Profile) -> None:
    table, whole = attribute_tables.success(few), indexed(attribute_tables.flippability(few), *attribute_tables.ATTACK)
    for (kind, mode), own in table.groupby(["adversarial_type", "mode"]):
        row = whole["Euclidean", kind, mode]
        assert own["n"].sum() == row["total"]
        assert (own["success"] * own["n"]).sum() / own["n"].sum() == pytest.approx(row["pass_95"])
    first = table[(table["adversarial_type"] == "FGS+") & (table["mode"] == "line-search")]["success"]
    assert first.dropna().is_monotonic_decreasing


def test_table_2_counts_pictures_at_both_snapshots(few: Profile) -> None:
    table = indexed(attribute_tables.progress(few), "loss", "adversarial_type")
    early, late = (robustness.flips(few, "euclidean", "ffa", "line", s) for s in ("two_epochs", "converged"))
    wrong = [robustness.adversarial(found) & ~found["right"] for found in (early, late)]
    row = table["Euclidean", "FFA-"]
    assert [row[c] for c in ("two_epochs", "converged", "overlap")] == [*(w.sum() for w in wrong), (wrong[0] & wrong[1]).sum()]
    assert row["learned"] == pytest.approx(100 * late["right"][wrong[0] & ~wrong[1]].double().mean().item(), nan_ok=True)
    assert table["Softmax", "FFA+"]["published_overlap"] == 15259


def test_a_column_of_figures_4_and_5_is_the_attribute_the_images_were_made_for(few: Profile) -> None:
    table = attribute_tables.others(few, "moon", "line")
    found = robustness.flips(few, "moon", "ffa", "line")
    made = robustness.adversarial(found)
    names = robustness.names(few)
    for a, column in enumerate(names):
        for b, row in enumerate(names):
            assert table.loc[row, column] == pytest.approx(
                100 * found["others"][made[:, a], a, b].double().mean().item(), nan_ok=True
            )


def test_an_attribute_without_adversarial_images_is_empty(few: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    found = robustness.flips(few, "moon", "ffa", "line")
    found["pass"][:, 2] = 0.5
    monkeypatch.setattr(attribute_tables, "flips", lambda *_: found)
    table = attribute_tables.others(few, "moon", "line")
    assert table.iloc[:, 2].isna().all()
    assert table.drop(columns=table.columns[2]).notna().all(axis=None)


def test_how_far_a_matrix_follows_the_labels(few: Profile) -> None:
    names = robustness.names(few)
    labels = robustness.signs(few, robustness.rows_of(few, "train")).numpy()
    alike = pd.DataFrame(np.abs(np.corrcoef(labels.T)), names, names)
    table = attribute_tables.related(few, {"same": 100 * alike, "opposite": 100 - 100 * alike}).set_index("matrix")
    assert table["follows"].tolist() == pytest.approx([1, -1], abs=1e-3)  # rounding parts pairs that tie
    assert table["pairs"].tolist() == [7 * 6] * 2


def test_figure_2_compares_with_the_majority_of_the_training_pictures(few: Profile) -> None:
    table = indexed(attribute_tables.errors(few), "approach", "attribute")
    train, test = (truth(few, robustness.rows_of(few, split)).double().numpy() for split in ("train", "test"))
    for i, name in enumerate(robustness.names(few)):
        majority = float(train[:, i].mean() > 0.5)
        assert table[attribute_tables.TRIVIAL, name]["error"] == pytest.approx(100 * (test[:, i] != majority).mean())
    said = robustness.test_answers(few, "softmax", "converged")
    errors = 100 * (said != (test == 1)).mean(0)
    found = [table["Separate networks (softmax)", name]["error"] for name in robustness.names(few)]
    assert found == pytest.approx(errors.tolist())
    own = [row["error"] for (approach, _), row in table.items() if approach == attribute_tables.SEPARATE]
    assert own == sorted(own)
    assert {row["epoch"] for row in table.values()} <= {0, 2, 3}


def test_the_difference_to_separate_networks_has_its_interval(few: Profile) -> None:
    table = indexed(attribute_tables.error_tests(few), "approach")
    separate = table[attribute_tables.SEPARATE]
    for name, row in table.items():
        assert row["difference"] == pytest.approx(row["mean_error"] - separate["mean_error"])
        assert name == attribute_tables.SEPARATE or row["difference_lo"] <= row["difference"] <= row["difference_hi"]
    assert table["MOON"]["published"] == 9.06
    assert table[attribute_tables.TRIVIAL]["published"] == 19.96


def test_one_perturbation_for_all_is_measured_on_test_pictures(few: Profile) -> None:
    table = attribute_tables.universal(few).set_index("attribute")
    assert list(table.index) == robustness.names(few)
    for i, (name, row) in enumerate(table.iterrows()):
        kept = robustness.universal(few, i)
        n, net = kept["n"], robustness.networks(few, "euclidean")[i]
        images = torch.from_numpy(robustness.faces(few).images[robustness.rows_of(few, "test")])
        lit = images.double() / 255 * torch.exp(2 * n.double())
        tuned = (255 * lit / (1 - images.double() / 255 + lit)).round().to(torch.uint8)
        right, after = (
            robustness.answers(net, x, "euclidean")[:, 0] == truth(few, robustness.rows_of(few, "test"))[:, i]
            for x in (images, tuned)
        )
        assert row["mistakes"] == (~right).sum(), name
        assert abs(row["broken"] - 100 * (~after)[right].double().mean().item()) < 100 * 1.5 / int(right.sum())
        assert row["psnr"] == pytest.approx(similarity.psnr(images / 255, tuned / 255).mean().item(), abs=0.05)
        assert row["bound"] >= row["before"]
    assert (table["mistakes"] > 0).any()


def test_examples_show_what_they_say(few: Profile) -> None:
    shown = attribute_tables.examples(few)
    assert [x.title[:3] for x in shown] == ["(a)", "(b)", "(c)", "(d)"]
    for x in shown:
        said = float(x.caption.split("PASS ")[1].split("\n")[0].split(" ")[0])
        found = similarity.pass_score(x.before[None] / 255, x.after[None] / 255)
        assert said == pytest.approx(float(found), abs=1e-4)
        assert not torch.equal(x.before, x.after)


def test_every_figure_holds_its_table(few: Profile) -> None:
    names = robustness.names(few)

    def labels(figure: Figure) -> set[str]:
        return {text.get_text() for ax in figure.axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels())}

    errors = attribute_tables.errors(few)
    figure = attribute_figures.errors(errors)
    assert set(names) <= labels(figure)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    wanted = errors[errors["approach"] == "MOON"]["error"].tolist()
    (moon,) = (y for label, y in drawn.items() if str(label).startswith("MOON ("))
    assert sorted(np.asarray(moon).tolist()) == pytest.approx(sorted(wanted))
    assert set(names) <= labels(attribute_figures.success(attribute_tables.success(few)))
    assert len(attribute_figures.flippability(attribute_tables.flippability(few)).axes) == 8
    matrix = attribute_tables.others(few, "moon", "iterative")
    heat = attribute_figures.influence(matrix, "MOON").axes[0].collections[0].get_array()
    assert heat is not None
    assert np.allclose(np.ma.filled(heat, np.nan).ravel(), matrix.to_numpy().ravel(), equal_nan=True)
    assert set(names) <= labels(attribute_figures.universal(attribute_tables.universal(few)))
    assert len(attribute_figures.examples(attribute_tables.examples(few)).axes) == 4


def test_an_unknown_network_is_said(few: Profile) -> None:
    with pytest.raises(DataError, match="choose convnets or vgg16"):
        robustness._stack(load_profile("demo", attribute_network="resnet"), 1, 1)


def test_vgg16_stands_alone() -> None:
    profile = load_profile("paper", attribute_data="studio", attribute_shape=[64, 64])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "names", lambda _: ["a", "b", "c"])
        assert robustness.groups(profile) == [[0], [1], [2]]
        assert robustness.groups(load_profile("demo")) == [[0, 1, 2]]
