"""Figures 1 and 4 of the paper, live in two dimensions: pictures of two pixels (n x 1 x 1 x 2), so that all can be drawn.

M1, a curved boundary, is learned on D1. On X, the same two bows moved and turned, it fails. Model fine-tuning goes on
training it with labelled points of X; data fine-tuning leaves it alone and adds one N, fitted by `perturbation.fit`, to them all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dftlib import config
from dftlib.classifiers import TorchClassifier
from dftlib.perturbation import Perturbation, Settings, fit
from dftlib.training import train_nnet

COUNTS = {"train": 200, "val": 200, "test": 300}
# The distance costs little, and has no limit: N has to carry the points as far as the data sets lie apart.
SETTINGS = Settings("clip", weight=0.1, optimiser="steepest", learning_rate=0.01, inner_steps=20, epochs=6)


class Points(NamedTuple):
    """Pictures n x 1 x 1 x 2 in [0, 1] and their labels n (int64), 0 or 1."""

    pictures: Tensor
    labels: Tensor

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """The pictures as features n x 2, and the labels."""
        return self.pictures.flatten(1), self.labels


@dataclass(frozen=True)
class Example:
    """Test points of D1 and of X, M1 trained on D1, M1 fine-tuned on X, and the perturbation fitted to X under M1."""

    d1: Points
    x: Points
    model: TorchClassifier
    tuned: TorchClassifier
    perturbation: Perturbation

    @property
    def z(self) -> Points:
        """X + N, the fine-tuned data."""
        return Points(self.perturbation.apply(self.x.pictures), self.x.labels)


def _draw(name: str, centre: tuple[float, float], degrees: float, seed: int) -> list[Points]:
    """Two parallel bows, class 0 above class 1, around `centre` and turned: training, validation and test points."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    parts = []
    for part, count in COUNTS.items():
        random = config.rng(seed, name, part)
        labels = np.arange(count) % 2
        along = random.uniform(-1, 1, count)
        bows = np.stack([along, 0.3 - 0.8 * along**2 + 0.4 * (1 - 2 * labels)], 1)
        points = 0.2 * (bows + 0.2 * random.standard_normal(bows.shape)) @ turn + centre
        parts.append(Points(torch.from_numpy(points).float().view(-1, 1, 1, 2), torch.from_numpy(labels)))
    return parts


def _classifier(head: nn.Module) -> TorchClassifier:
    return TorchClassifier(nn.Sequential(nn.Flatten(), head))


def accuracy(classifier: TorchClassifier, points: Points) -> float:
    """The share of points that the classifier gets right."""
    return (classifier.scores(points.pictures).argmax(1) == points.labels).double().mean().item()


def example(seed: int = 0) -> Example:
    """Trains M1 on D1, goes on training a copy of it on X, and fits N to X under M1; validation points choose the epochs."""
    train, val, d1 = _draw("D1", (0.54, 0.64), 0, seed)
    # Slowly, since a model that is sure of everything has no gradient where it is wrong, and N would find no way back.
    head = train_nnet(*train.features, *val.features, learning_rate=0.001, seed=seed)
    learned_on = train.pictures.flatten(1)
    train, val, x = _draw("X", (0.46, 0.42), -20, seed)
    tuned = train_nnet(*train.features, *val.features, seed=seed, start=head, scale=learned_on)
    model = _classifier(head)
    return Example(d1, x, model, _classifier(tuned), fit(model, *train, *val, SETTINGS, seed))
