"""What a perturbation did, honestly: accuracy with intervals, paired tests, and the cheaper remedies beside it."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor

from dftlib import config
from dftlib.classifiers import Pictures, batches

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


def rise_interval(before: Bools, after: Bools, subjects: NDArray[np.str_], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the rise in accuracy, as fractions, from a bootstrap that draws people, not pictures.

    One person's pictures are right or wrong together, so an interval that counts them as independent is too narrow.
    """
    people, index = np.unique(subjects, return_inverse=True)
    change = np.bincount(index, after.astype(float) - before)
    count = np.bincount(index)
    drawn = config.rng("bootstrap").integers(0, len(people), (draws, len(people)))
    low, high = np.quantile(change[drawn].sum(1) / count[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


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
