"""What a perturbation did, honestly: accuracy with intervals, paired tests, and the cheaper remedies beside it."""

import io
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor

from dftlib import config
from dftlib.classifiers import Pictures, batches
from dftlib.perturbation import Perturbation

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def wilson(correct: Bools) -> tuple[float, float]:
    """95 % Wilson interval of a share, as fractions."""
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(before: Bools, after: Bools) -> float:
    """Exact two-sided McNemar p of two classifiers' correctness on the same pictures (1 when they never differ)."""
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def people_drawn(subjects: NDArray[np.str_], draws: int = 1000) -> Floats:
    """A bootstrap that draws people, not pictures: draws x n, how often each picture counts in each draw.

    One person's pictures are right or wrong together, so an interval that counts them as independent is too narrow.
    """
    people, index = np.unique(subjects, return_inverse=True)
    times = config.rng("bootstrap").multinomial(len(people), np.full(len(people), 1 / len(people)), draws)
    return times[:, index].astype(np.float64)


def interval(statistic: Floats) -> tuple[float, float]:
    """The middle 95 % of a statistic over the draws of a bootstrap (draws in which it is undefined are left out)."""
    low, high = np.nanquantile(statistic, (0.025, 0.975))
    return float(low), float(high)


def share(right: NDArray[Any], drawn: Floats) -> Floats:
    """Mean of `right`, n values, in each draw."""
    return cast(Floats, drawn @ right / drawn.sum(1))


def gain(better: Bools, worse: Bools, drawn: Floats) -> Floats:
    """How far one accuracy is above another on the same pictures, in each draw."""
    return share(better.astype(float) - worse, drawn)


def compared(before: Bools, after: Bools, subjects: NDArray[np.str_]) -> dict[str, float]:
    """Accuracy before and after with Wilson intervals and the rise with that of a bootstrap over people, all in percent.

    Beside them `gained` and `lost`, the pictures set right and set wrong, and the exact McNemar p of the two counts.
    """
    rise = interval(gain(after, before, people_drawn(subjects)))
    limits = {"before": wilson(before), "after": wilson(after), "rise": rise}
    means = {"before": before.mean(), "after": after.mean(), "rise": after.mean() - before.mean()}
    percent = {
        f"{name}{ending}": 100 * float(value)
        for name, mean in means.items()
        for ending, value in zip(("", "_lo", "_hi"), (mean, *limits[name]), strict=True)
    }
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    return {**percent, "gained": gained, "lost": lost, "mcnemar_p": mcnemar(before, after)}


def balanced_share(right: Bools, labels: NDArray[np.int64], drawn: Floats) -> Floats:
    """Balanced accuracy in each draw."""
    with np.errstate(invalid="ignore"):  # a draw may hold one class only
        return (share(right[labels == 0], drawn[:, labels == 0]) + share(right[labels == 1], drawn[:, labels == 1])) / 2


def area(scores: Floats, labels: NDArray[np.int64], drawn: Floats) -> Floats:
    """Area under the ROC curve of n scores in each draw: the share of pairs of both classes in the right order, ties half."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    present, absent = (np.add.reduceat(drawn[:, order] * (labels[order] == label), ties, axis=1) for label in (1, 0))
    below = absent.cumsum(1) - absent / 2
    with np.errstate(invalid="ignore"):
        return cast(Floats, (present * below).sum(1) / (present.sum(1) * absent.sum(1)))


def best_threshold(scores: Floats, labels: NDArray[np.int64]) -> float:
    """The threshold t for which 'present if score > t' is right most often on these pictures (the first of equals)."""
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], labels[order]
    # With k pictures called absent: right are the absent among the first k and the present among the rest.
    right = np.concatenate([[0], np.cumsum(truth == 0)]) + (truth == 1).sum() - np.concatenate([[0], np.cumsum(truth == 1)])
    middle = (ranked[:-1] + ranked[1:]) / 2
    cuts = np.concatenate([[-np.inf], np.where(middle < ranked[1:], middle, ranked[:-1]), [np.inf]])
    splits_ties = np.concatenate([[False], ranked[:-1] == ranked[1:], [False]])
    return float(cuts[np.argmax(np.where(splits_ties, -1, right))])


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and deviation of each channel over a set of pictures, 3 values each, in grey levels."""

    mean: Floats
    deviation: Floats

    @staticmethod
    def of(images: Pictures) -> "ChannelStatistics":
        parts = [np.asarray(batch, dtype=np.float64) for batch in batches(images)]
        count = sum(p.size for p in parts) / 3
        mean = sum((p.sum((0, 2, 3)) for p in parts), np.zeros(3)) / count
        square = sum((np.square(p).sum((0, 2, 3)) for p in parts), np.zeros(3)) / count
        return ChannelStatistics(mean, np.sqrt(square - mean**2))


def match_channels(images: Pictures, own: ChannelStatistics, wanted: ChannelStatistics) -> Tensor:
    """The colour control: pictures uint8 n x 3 x H x W given the `wanted` mean and deviation of each channel, uint8."""
    gain = torch.from_numpy(wanted.deviation / np.maximum(own.deviation, 1e-9)).float().view(1, 3, 1, 1)
    centre, target = (torch.from_numpy(s.mean).float().view(1, 3, 1, 1) for s in (own, wanted))
    parts = [(torch.as_tensor(np.array(batch)).float() - centre) * gain + target for batch in batches(images)]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def mean_picture(images: Pictures) -> Tensor:
    """The mean of pictures uint8 n x 3 x H x W: float32 3 x H x W in [0, 1]."""
    total = sum(torch.as_tensor(np.array(batch)).double().sum(0) for batch in batches(images))
    return (cast(Tensor, total) / (255 * len(images))).float()


def controls_on(found: Perturbation, seed: int) -> dict[str, Perturbation]:
    """What should do nothing if N fits these pictures: its sign flipped, its pixels shuffled, noise of equal norm.

    `moved_1` and `moved_2` move N by so many pixels right and down: they tell how well the pictures must be aligned.
    """
    n, draw = found.n, config.rng(seed, "controls")
    pixels = torch.from_numpy(draw.permutation(n[0].numel()))
    noise = torch.from_numpy(draw.standard_normal(n.shape)).float()
    changed = {
        "flipped": -n,
        "scrambled": n.flatten(1)[:, pixels].view_as(n),
        "moved_1": n.roll((1, 1), (1, 2)),
        "moved_2": n.roll((2, 2), (1, 2)),
        "random": noise * n.norm() / noise.norm(),
    }
    return {name: replace(found, n=other) for name, other in changed.items()}


def jpeg(images: Tensor, quality: int = 95) -> Tensor:
    """Pictures uint8 n x 3 x H x W after JPEG of this quality (Pillow, 4:2:0 chroma) and back, uint8."""
    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()


def accuracy(scores: Tensor, labels: NDArray[np.int64]) -> float:
    """Share of pictures whose highest score, n x classes, is that of their label."""
    return float((scores.argmax(1).numpy() == labels).mean())


def balanced_accuracy(scores: Tensor, labels: NDArray[np.int64]) -> float:
    """Mean over classes of the share of their pictures that are right."""
    return float(balanced_accuracy_score(labels, scores.argmax(1).numpy()))


def roc_area(scores: Tensor, labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of the score of 'present', n x 2."""
    return float(roc_auc_score(labels, scores[:, 1].numpy()))
