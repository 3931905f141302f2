"""Networks that imitate a classifier which only answers, so that N can be fitted through them by gradient."""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from dftlib.images import to_float
from dftlib.models.backbones import ConvNet
from dftlib.models.base import Backbone
from dftlib.perturbation.problem import Problem, length
from dftlib.progress import tqdm

LIMIT = 6.0  # log-odds beyond which a surrogate isn't held to the answer's exact value
BATCH, ENCODED = 256, 64  # fitting images in a step of the fit to a surrogate, and to one on a known network
RIDGE = 0.1  # of the features' mean square


class Imitation(nn.Module):
    """What imitates the answers, float images n x 3 x H x W in [0, 1] -> logits n x classes, and what it learns them from.

    It is held to centred log-probabilities, clipped where scores saturate.
    """

    batch = BATCH

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem, self.shown, self.answers = problem, list[Tensor](), list[Tensor]()

    def ask(self, rows: Tensor, c: Tensor) -> None:
        """Asks these images under c, and keeps the answers, where there are any, to learn from."""
        shown = self.problem.shown(rows, c)
        scores = self.problem.meter.scores(shown)
        there = scores.isfinite().all(1)
        answers = scores[there].clamp_min(math.exp(-2 * LIMIT)).log()
        self.shown.append(shown[there])
        self.answers.append((answers - answers.mean(1, keepdim=True)).clamp(-LIMIT / 2, LIMIT / 2))

    def gradient(self, c: Tensor) -> Tensor:
        """Gradient to c of the loss on the surrogate, over a batch of fitting images."""
        rows = torch.randint(len(self.problem), (min(self.batch, len(self.problem)),), generator=self.problem.draw)
        x, y = self.problem.floats(rows), self.problem.labels[rows].to(self.problem.device)
        c = c.detach().requires_grad_()
        loss = 1 - self(self.problem.under(x, c)).softmax(1).gather(1, y[:, None]).mean()
        return torch.autograd.grad(loss, c)[0]

    def fitted(self, c: Tensor, steps: int) -> Tensor:
        """The coefficients that suit the surrogate best, from c by steepest descent with momentum, held to the limit."""
        mean = torch.zeros_like(c)
        for k in range(steps):
            mean.lerp_(self.gradient(c), 0.1)
            rate = 0.03 * (0.5 + 0.5 * math.cos(math.pi * k / steps))
            c = self.problem.limited(c - rate * mean / length(mean))
        return c


class Surrogate(Imitation):
    """A small network trained from nothing: ConvNet's features on a 4 x 4 map, as it matters where they are."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=problem.draw)))
        self.body, self.head = ConvNet(problem.images.shape[2]), nn.Linear(16 * ConvNet.features, problem.meter.box.classes)
        self.to(problem.device)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body.maps(images), 4).flatten(1))

    def learn(self, epochs: int, rate: float) -> None:
        """Trains on all answers so far; where N is mirrored, so are images at random, as the answer hardly changes."""
        shown, answers = torch.cat(self.shown), torch.cat(self.answers)
        draw, device = self.problem.draw, self.problem.device
        optimiser = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=0.01)
        size = min(64, len(shown))
        schedule = OneCycleLR(optimiser, rate, total_steps=epochs * (len(shown) // size) + 1)
        self.train()
        for _ in tqdm(range(epochs), desc="surrogate", unit="epoch", leave=False):
            for rows in torch.randperm(len(shown), generator=draw)[: len(shown) // size * size].view(-1, size):
                x = to_float(shown[rows], device)
                turned = torch.rand(size, 1, 1, 1, generator=draw).to(device) < 0.5 * self.problem.mirror
                x = torch.where(turned, x.flip(3), x)
                logits = self(x)
                loss = F.smooth_l1_loss(logits - logits.mean(1, keepdim=True), answers[rows].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        self.eval()


class Encoded(Imitation):
    """A known network with one linear layer on its features that imitates the answers, as AReS (2026) has it; the network stays.

    Images are enlarged to its size. The layer is the ridge regression of the answers on the features.
    """

    batch = ENCODED

    def __init__(self, problem: Problem, encoder: Backbone) -> None:
        super().__init__(problem)
        self.body = deepcopy(encoder).eval().requires_grad_(False)
        self.head = nn.Linear(encoder.features, problem.meter.box.classes)
        self.to(problem.device)

    def features(self, images: Tensor) -> Tensor:
        size = (self.body.size, self.body.size)
        return self.body(F.interpolate(images, size, mode="bilinear", align_corners=False)).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    @torch.no_grad()
    def learn(self) -> None:
        """The one layer that suits all answers so far best."""
        shown, y = torch.cat(self.shown), torch.cat(self.answers).double()
        parts = tqdm(shown.split(ENCODED), desc="encoder", unit="batch", leave=False)
        x = torch.cat([self.features(to_float(part, self.problem.device)).double().cpu() for part in parts])
        mean, about = x.mean(0), y.mean(0)
        scatter = (x - mean).T @ (x - mean)
        ridge = RIDGE * scatter.trace() / len(scatter) * torch.eye(len(scatter), dtype=x.dtype)
        weight = torch.linalg.solve(scatter + ridge, (x - mean).T @ (y - about))
        self.head.weight.copy_(weight.T)  # to its own kind and device
        self.head.bias.copy_(about - mean @ weight)
