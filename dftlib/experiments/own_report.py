"""What a practitioner is told of a perturbation: the verdict, the picture at its side, and tables that fit a page."""

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from dftlib import artefacts, seeds
from dftlib.datasets.files import named
from dftlib.metrics import classification
from dftlib.metrics.class_order import ClassOrder
from dftlib.metrics.comparison import Comparison
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.query_log import CHANGED
from dftlib.plots import data_finetuning, own_classifier

# What else than adding N could be done: as a sentence has it, and as a table does.
REMEDIES = {
    "unaligned": ("leaving the pictures unaligned", "whole pictures, not aligned"),
    "majority": ("always naming the most frequent class", "most frequent class"),
    "threshold": ("moving the threshold", "threshold moved"),
    "stack": ("weighing the classifier's scores anew", "scores weighed anew"),
}


@dataclass(frozen=True)
class Tuned:
    """A perturbation, and what it did to the n test images that were asked.

    summary:       one row: counts, accuracies (percent) with 95 % intervals, remedies, ROC areas, PSNR (dB), what was asked
    per_class:     a row a class: its accuracy before and after
    said:          what follows from them, in plain words; the first says whether N is recommended
    images, after: the test images as they are (aligned, if they were to be) and with N, uint8 n x 3 x H x W
    true:          before and after, 2 x n: the score of the true class
    comparison:    which of them are right before, after, and under each of `REMEDIES`
    sources:       what `dft perturb` makes `after` of: the images, or where they are aligned their files
    asked:         what was asked for, by the names of the parameters
    """

    perturbation: Perturbation
    summary: pd.DataFrame
    per_class: pd.DataFrame
    said: tuple[str, ...]
    images: Tensor
    after: Tensor
    true: NDArray[np.float64]
    comparison: Comparison
    sources: Tensor | list[Path]
    asked: Mapping[str, Any] = field(default_factory=dict)

    def _drawn(self) -> NDArray[np.int64]:
        """Test images in random order, those first that were set right or wrong."""
        order, right = seeds.rng("examples").permutation(len(self.images)), self.comparison.right
        return order[np.argsort((right["before"] == right["after"])[order], kind="stable")]

    def examples(self, note: str = "") -> Figure:
        """Eight test images before and after, drawn at random, those first that were set right or wrong."""
        rows, one = self._drawn()[:8], self.summary.iloc[0]
        title = f"of {one['n_test']:,} test pictures {one['gained']:,} set right, {one['lost']:,} set wrong"
        return data_finetuning.examples(self.images[rows], self.after[rows], self.true[:, rows], title, note)

    def picture(self, note: str = "") -> Figure:
        """One of the examples before, N, and after; accuracies with their intervals, those of the remedies beside them."""
        row = self._drawn()[0]
        was, now = self.true[:, row]
        shown = {
            f"before\nscore {was:.2f}": self.images[row],
            "N\nstretched": self.perturbation.picture(),
            f"with N\nscore {now:.2f}": self.after[row],
        }
        return own_classifier.verdict(shown, self._ways(), note)

    def _ways(self) -> pd.DataFrame:
        names = {"before": "aligned, as they are" if "unaligned" in self.comparison.right else "as they are", "after": "with N"}
        names |= {name: short for name, (_, short) in REMEDIES.items() if name in self.comparison.right}
        rows = [(name, *classification.in_percent("right", self.comparison.right[name]).values()) for name in names]
        return pd.DataFrame(rows, list(names.values()), ["name", "right", "lo", "hi"])

    def verdict(self, note: str = "") -> str:
        """HTML: whether N is recommended, a heading, and below it all else that was said."""
        head, _, why = self.said[0].partition(". ")
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.said[1:])
        of = f"<p><em>Demonstration on {html.escape(note)}.</em></p>" if note else ""
        return f"<h1>{html.escape(head)}</h1>{of}<p>{html.escape(why)}</p><ul>{lines}</ul>"

    def accuracies(self) -> pd.DataFrame:
        """A line each for the test images as they are, with N, and under each remedy; by how much N is ahead. In percent."""
        rows = {}
        for way, (name, right, low, high) in self._ways().iterrows():
            ahead = {} if name == "after" else {"N is ahead by": _with_interval("{:+.1f}", *self.comparison.over(name).values())}
            rows[way] = {"right": _with_interval("{:.1f}", right, low, high), **ahead}
        return pd.DataFrame.from_dict(rows, orient="index").fillna("")

    def classes(self) -> pd.DataFrame:
        """A line a class: accuracies and the change, with intervals, in percent, and the pictures set right and set wrong."""
        table = self.per_class.set_index(self.per_class["class"].rename(None))
        for name, form in {"before": "{:.1f}", "after": "{:.1f}", "rise": "{:+.1f}"}.items():
            table[name] = [_with_interval(form, *ends) for ends in table[[name, f"{name}_lo", f"{name}_hi"]].to_numpy()]
        counts = {"n_test": "pictures", "gained": "set right", "lost": "set wrong"}
        return table[["before", "after", "rise", *counts]].rename(columns=counts)

    def facts(self, **names: str) -> pd.DataFrame:
        """A quantity a line: those columns of the summary that there are, by what they mean."""
        one = self.summary.iloc[0]
        there = {what: one[name] for name, what in names.items() if name in one and pd.notna(one[name])}
        return pd.DataFrame({"": {what: f"{v:,.3g}" if isinstance(v, float) else f"{v:,}" for what, v in there.items()}})

    def parameters(self) -> str:
        """HTML: a parameter a line, of those that were given."""
        lines = (f"<li>{name}: {html.escape(str(value))}</li>" for name, value in self.asked.items() if value)
        return f"<ul>{''.join(lines)}</ul>"

    def save(self, out: Path, picture: Figure) -> None:
        """Writes perturbation.safetensors, .png and .md, summary.csv, per_class.csv, examples.png, each whole or not at all."""
        self.perturbation.save(out / "perturbation.safetensors")
        for name, table in {"summary": self.summary, "per_class": self.per_class}.items():
            with artefacts.whole(out / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
        with artefacts.whole(out / "examples.png") as temporary:
            picture.savefig(temporary, dpi=200, metadata={"Software": ""})


def _with_interval(form: str, value: float, low: float, high: float) -> str:
    return f"{form.format(value)} ({form.format(low)} to {form.format(high)})"


def in_words(comparison: Comparison) -> Comparison:
    """The same with its remedies by the words of a sentence."""
    right = {REMEDIES[name][0] if name in REMEDIES else name: given for name, given in comparison.right.items()}
    return replace(comparison, right=right)


def said_of_n(s: Mapping[str, Any], per_class: pd.DataFrame) -> Iterator[str]:
    """What the summary says of N, of what it is added to, and of what would be simpler."""
    bounds = f"On validation pictures the rise lies between {s['val_rise_lo']:+.1f} and {s['val_rise_hi']:+.1f} points."
    advice = "Recommended: add N." if s["recommended"] else f"Not recommended: leave the pictures as they are. {s['why_not']}"
    yield f"{advice} {bounds}"
    before, after = (f"{s[k]:.1f} % {{}} ({s[f'{k}_lo']:.1f} to {s[f'{k}_hi']:.1f})" for k in ("before", "after"))
    rise = f"a rise of {s['rise']:+.1f} points ({s['rise_lo']:+.1f} to {s['rise_hi']:+.1f})"
    yield (
        f"{s['n_test']:,} test pictures, which had no part in that: {before.format('right before')}, {after.format('with N')}, "
        f"{rise}; in brackets 95 % intervals."
    )
    if "unaligned" in s:
        yield (
            f"Alignment alone, of the same test pictures: {s['unaligned']:.1f} % right as whole pictures, {s['before']:.1f} % as "
            f"aligned faces. To tell that, {s['asked_unaligned']:,} pictures of the budget were asked whole."
        )
    for name, (way, _) in REMEDIES.items():
        if s.get(f"over_{name}_lo", 1) <= 0:
            yield f"N is not shown to be better than {way}: {s[name]:.1f} % right."
    for c in per_class.query("rise < 0").to_dict("records"):
        yield f"Harm: class '{c['class']}' falls from {c['before']:.1f} to {c['after']:.1f} % ({c['n_test']} test pictures)."
    if s["unlabelled"]:
        yield f"{s['unlabelled']:,} pictures in the folder have no label, and had no part in this."


def said_of_answers(
    s: Mapping[str, Any], silent: list[str], quoted: str, order: ClassOrder | None, classes: int
) -> Iterator[str]:
    """What the summary says of the answers; `quoted` are the classes in another `order`, if one explains more."""
    if order:
        yield (
            f"Another order of the classes would explain {order.explained:.1f} % of the answers as they are instead of "
            f"{order.before:.1f} % (means over classes): should `classes` be {quoted}?"
        )
    elif s["before_hi"] < 100 / classes:
        yield "The classifier is right less often than a guess: is the order of `classes` that of its answers?"
    if s["named"] == 1:
        yield (
            "The classifier names one class for all test pictures as they are: do `options` (mean, deviation, colours, numbers) "
            "say how it wants them, and what its answers are?"
        )
    if s["unsteady"] > CHANGED:
        yield f"The classifier changes its answers: two to one picture differ by up to {s['unsteady']:.3f}. Mistrust small rises."
    if silent:
        yield f"{len(silent):,} pictures got no answer and had no part in fit and accuracies: {named(silent)}."
    if s["unanswered_after"]:
        yield f"{s['unanswered_after']:,} test pictures get no answer once N is added: they count as wrong."
    anew = f", {s['anew']:,} of them anew to see whether the classifier is still the same" if s["anew"] else ""
    now = f"{s['sent_now']:,} were sent now{anew}"
    yield f"Of the budget of {s['budget']:,} pictures {s['used']:,} were used; {now}, the rest before."
