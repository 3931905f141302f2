"""Fitting a perturbation from scores alone, to a classifier that can't be opened; every image asked is paid for.

`fit_black_box` takes gradients where the classifier has them and asks where it has none. `LEARNERS` are the ways of asking, in
the order of their price. They look for N among few coefficients, `GRID` x `GRID` a channel, enlarged to the image (bicubic):
what asking can find out about finer detail costs more than it brings. Coefficients and random draws stay on the CPU; images
are computed with on the device that a fit is told, a batch at a time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from dftlib import seeds
from dftlib.classifiers.answers import counted_wrong
from dftlib.classifiers.base import TorchClassifier
from dftlib.classifiers.black_box import BlackBox, optional
from dftlib.datasets.base import Labels, Split, class_indices, require_known
from dftlib.errors import DataError
from dftlib.images import Pictures, require_range, to_float
from dftlib.metrics.class_order import require_order
from dftlib.metrics.comparison import compare
from dftlib.models.backbones import ConvNet
from dftlib.perturbation import baselines, card, gradient
from dftlib.perturbation.box_maps import BOXES
from dftlib.perturbation.gradient import Settings
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.query_log import BudgetSpentError, Meter, QueryLog
from dftlib.progress import tqdm

CPU = torch.device("cpu")
GRID = 8
STRENGTHS = (1.0, 0.7, 0.5)  # of what a learner found, tried on one part in 24 of the budget each: what is found often overshoots
CHECKED = 12  # one part in so many of the budget goes to validation images, and as much again to the same ones with N
REPEATED = 8  # images sent twice, to see whether they are answered alike
PROBE = 128  # fitting images on which the limit on the distortion is measured
LIMIT = 6.0  # log-odds beyond which a surrogate isn't held to the answer's exact value
BATCH = 256  # fitting images in a step of the fit to a surrogate
FIRST, AGAIN = 2000, 1000  # images asked in the first round of 'surrogate', at most, and in each further one
AT_ONCE = 512  # images computed with, where nothing depends on how many there are
Learner = Callable[["Problem"], Iterator[Tensor]]


def key(learner: str, query_budget: int, min_psnr: float) -> dict[str, object]:
    """All numbers that decide what `fit_black_box` finds, JSON-able, but for the seed, the images and the classifier."""
    asked = {"learner": learner, "budget": query_budget, "min_psnr": min_psnr, "first": FIRST, "again": AGAIN, "grid": GRID}
    checks = {"strengths": STRENGTHS, "checked": CHECKED, "repeated": REPEATED, "probe": PROBE, "limit": LIMIT, "batch": BATCH}
    return {**asked, **checks, "gradient": gradient.key(Settings(min_psnr=min_psnr))}


@dataclass
class Problem:
    """What a learner has: a meter to ask, images uint8 n x 3 x H x W with labels n, a limit in dB, a seed's draws, a device."""

    meter: Meter
    images: Pictures
    labels: Tensor
    min_psnr: float
    draw: torch.Generator
    reference: Pictures | None = None
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, rows: Tensor) -> Tensor:
        """These images in [0, 1] on the device."""
        return to_float(self.images[rows.numpy()], self.device)

    def enlarged(self, c: Tensor) -> Tensor:
        """Coefficients m x 3 x g x g -> N, m x 3 x H x W, where they are."""
        return F.interpolate(c, tuple(self.images.shape[2:]), mode="bicubic", align_corners=False)

    def under(self, x: Tensor, c: Tensor) -> Tensor:
        """Float images in [0, 1] under coefficients, one set for all or one for each, where the images are."""
        return BOXES["atanh"](x, self.enlarged(c.to(x.device)))

    def limited(self, c: Tensor) -> Tensor:
        """Coefficients scaled down to the limit on the distortion, to first order."""
        x = to_float(self.images[:PROBE], self.device)
        squared = (self.under(x, c) - x).square().mean().cpu()
        return c / (squared * 10 ** (self.min_psnr / 10)).sqrt().clamp_min(1)

    def parts(self, rows: Tensor, c: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of these images, float on the device, with their coefficients: one set for all, or one for each."""
        own = c.split(AT_ONCE) if len(c) == len(rows) else repeat(c)
        return ((self.floats(some), part) for some, part in zip(rows.split(AT_ONCE), own, strict=False))

    def noise(self, rows: Tensor, decibels: float, grid: int) -> Tensor:
        """Random coefficients for each of these images, m x 3 x grid x grid, that leave each about so many decibels."""
        c = torch.randn(len(rows), 3, grid, grid, generator=self.draw)
        # the box map to first order
        moved = [(2 * x * (1 - x) * self.enlarged(n.to(x.device))).square().mean((1, 2, 3)) for x, n in self.parts(rows, c)]
        each = torch.cat(moved).cpu().sqrt().view(-1, 1, 1, 1)
        return c * 10 ** (-decibels / 20) / each.clamp_min(1e-6)  # an image of black and white alone doesn't move

    def shown(self, rows: Tensor, c: Tensor) -> Tensor:
        """What the classifier gets to see: uint8 images under coefficients, on the CPU."""
        return torch.cat([(self.under(x, n) * 255).round().byte().cpu() for x, n in self.parts(rows, c)])

    def loss(self, rows: Tensor, c: Tensor) -> Tensor:
        """Asks. 1 - the score of the true class, of each image under c: equation 12 where rows sum to 1.

        Without an answer it is 1: an image that never has one has no say, and none is gained by losing it.
        """
        return 1 - self.meter.scores(self.shown(rows, c)).gather(1, self.labels[rows, None])[:, 0].nan_to_num(0)

    def shuffled(self) -> Iterator[int]:
        """Rows of the images without end, each once before any twice."""
        while True:
            yield from torch.randperm(len(self), generator=self.draw).tolist()


def steepest(step: Callable[[Tensor], Tensor], c: Tensor, problem: Problem, steps: int, rate: float) -> Tensor:
    """Steepest descent with momentum and a cosine schedule, held to the limit; `step` gives the gradient at c."""
    mean = torch.zeros_like(c)
    for k in range(steps):
        mean.lerp_(step(c), 0.1)
        length = rate * (0.5 + 0.5 * math.cos(math.pi * k / steps))
        c = problem.limited(c - length * mean / mean.square().mean().sqrt().clamp_min(1e-20))
    return c


class Surrogate(nn.Module):
    """A small network that imitates the answers: their centred log-probabilities, clipped where scores saturate.

    Float images n x 3 x H x W in [0, 1] -> logits n x classes, from ConvNet's features on a 4 x 4 map: it matters where they are.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=problem.draw)))
        self.body, self.head = ConvNet(problem.images.shape[2]), nn.Linear(16 * ConvNet.features, problem.meter.box.classes)
        self.to(problem.device)
        self.problem, self.shown, self.answers = problem, list[Tensor](), list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body.maps(images), 4).flatten(1))

    def ask(self, rows: Tensor, c: Tensor) -> None:
        """Asks these images under c, and keeps the answers, where there are any, to learn from."""
        shown = self.problem.shown(rows, c)
        scores = self.problem.meter.scores(shown)
        there = scores.isfinite().all(1)
        answers = scores[there].clamp_min(math.exp(-2 * LIMIT)).log()
        self.shown.append(shown[there])
        self.answers.append((answers - answers.mean(1, keepdim=True)).clamp(-LIMIT / 2, LIMIT / 2))

    def learn(self, epochs: int, rate: float) -> None:
        """Trains on all answers so far; faces are flipped (left and right) at random, as the answer hardly changes."""
        shown, answers = torch.cat(self.shown), torch.cat(self.answers)
        draw, device = self.problem.draw, self.problem.device
        optimiser = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=0.01)
        size = min(64, len(shown))
        schedule = OneCycleLR(optimiser, rate, total_steps=epochs * (len(shown) // size) + 1)
        self.train()
        for _ in tqdm(range(epochs), desc="surrogate", unit="epoch", leave=False):
            for rows in torch.randperm(len(shown), generator=draw)[: len(shown) // size * size].view(-1, size):
                x = to_float(shown[rows], device)
                x = torch.where(torch.rand(size, 1, 1, 1, generator=draw).to(device) < 0.5, x.flip(3), x)
                logits = self(x)
                loss = F.smooth_l1_loss(logits - logits.mean(1, keepdim=True), answers[rows].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        self.eval()

    def gradient(self, c: Tensor) -> Tensor:
        """Gradient to c of the loss on the surrogate, over a batch of fitting images."""
        rows = torch.randint(len(self.problem), (min(BATCH, len(self.problem)),), generator=self.problem.draw)
        x, y = self.problem.floats(rows), self.problem.labels[rows].to(self.problem.device)
        c = c.detach().requires_grad_()
        loss = 1 - self(self.problem.under(x, c)).softmax(1).gather(1, y[:, None]).mean()
        return torch.autograd.grad(loss, c)[0]

    def fitted(self, c: Tensor, steps: int) -> Tensor:
        """The coefficients that suit the surrogate best, searched from c."""
        return steepest(self.gradient, c, self.problem, steps, 0.03)


def statistics(problem: Problem) -> Iterator[Tensor]:
    """Asks nothing: moves the mean image to that of reference images, in the log-odds that N adds to, smoothly."""
    assert problem.reference is not None
    own, wanted = (baselines.mean_picture(images).clamp(0.01, 0.99).logit() for images in (problem.images, problem.reference))
    yield problem.limited(F.adaptive_avg_pool2d((wanted - own)[None] / 2, GRID))


def one_pass(problem: Problem) -> Iterator[Tensor]:
    """Asks each image once as it is, fits a surrogate to the answers, and a free N to the surrogate (as AReS, 2026)."""
    model = Surrogate(problem)
    rows = torch.randperm(len(problem), generator=problem.draw)[: problem.meter.left]
    model.ask(rows, torch.zeros(1, 3, GRID, GRID))
    model.learn(20, 0.003)
    yield model.fitted(torch.zeros(1, *problem.images.shape[1:]), 150)


def _first_round(problem: Problem, count: int) -> tuple[Surrogate, Tensor]:
    """A surrogate of `count` answers, a third of them to images as they are, the others under smooth noise; and its N."""
    model, c = Surrogate(problem), torch.zeros(1, 3, GRID, GRID)
    rows = torch.tensor([row for row, _ in zip(problem.shuffled(), range(count), strict=False)])
    model.ask(rows[: count // 3], c)
    _ask_around(model, rows[count // 3 :], c)
    model.learn(30, 0.003)
    return model, model.fitted(c, 150)


def _ask_around(model: Surrogate, rows: Tensor, c: Tensor) -> None:
    """Asks images under c and noise of about the distortion that N may have, half of it twice as smooth."""
    for part, grid in zip(rows.chunk(2), (GRID // 2, GRID), strict=False):
        noise = F.interpolate(model.problem.noise(part, 30, grid), GRID, mode="bicubic", align_corners=False)
        model.ask(part, c + noise)


def surrogate(problem: Problem) -> Iterator[Tensor]:
    """Rounds: ask images under N and smooth noise, train a surrogate on all answers, fit N to it; the mean of the rounds' Ns.

    Each N suits its own surrogate's mistakes, so the Ns scatter; their mean keeps what they share.
    """
    model, c = _first_round(problem, min(FIRST, problem.meter.left))
    yield c
    rounds, rows = [c], problem.shuffled()
    while problem.meter.left >= AGAIN:
        _ask_around(model, torch.tensor([next(rows) for _ in range(AGAIN)]), c)
        model.learn(8, 0.0015)
        c = model.fitted(c, 75)
        rounds.append(c)
        yield problem.limited(torch.stack(rounds[len(rounds) // 2 :]).mean(0))


def _in_a_step(problem: Problem, shown: int) -> int:
    """Images in a step that shows each `shown` times: at most 40, and at least ten steps of 5 where the budget allows."""
    return max(5, min(40, problem.meter.left // (10 * shown)))


def spsa(problem: Problem) -> Iterator[Tensor]:
    """A surrogate's N, then random directions: doubtful images, each shown as it is and moved four ways, coarse to fine.

    Only where the classifier is in doubt does a small change move its score, so images are drawn in proportion to
    p (1 - p), p the last score of the true class, and weighted back. Spall (1992), each image with directions of its own.
    """
    ways, doubt = 4, torch.full((len(problem),), 0.25)
    _, c = _first_round(problem, min(FIRST, problem.meter.left // 3))
    yield c
    count, spent = _in_a_step(problem, 1 + ways), problem.meter.left // 2

    def step(c: Tensor, grid: int) -> Tensor:
        share = (doubt + 0.03) / (doubt + 0.03).sum()
        rows = torch.multinomial(share, count, replacement=True, generator=problem.draw)
        loss = problem.loss(rows, c)
        doubt[rows] = loss * (1 - loss)
        weight = (1 / (share[rows] * len(problem))).view(-1, 1, 1, 1)
        total = torch.zeros_like(c)
        for _ in range(ways):
            coarse = problem.noise(rows, 28, grid)
            way = F.interpolate(coarse, c.shape[2], mode="bicubic", align_corners=False)
            change = (problem.loss(rows, c + way) - loss).view(-1, 1, 1, 1)
            total += (weight * change * way / way.square().mean((1, 2, 3), keepdim=True)).mean(0)
        return total / ways

    for grid in (GRID // 2, GRID):
        steps = min(spent, problem.meter.left) // (count * (1 + ways))
        c = steepest(partial(step, grid=grid), c, problem, steps, 0.05)
        yield c


def corrected_spsa(problem: Problem) -> Iterator[Tensor]:
    """SPSA with gradient correction, as BlackVIP has it (2023, section 4): five two-sided random signs for a batch and step.

    The momentum is Nesterov's: the gradient is taken where the momentum leads. It starts from nothing known.
    """
    signs, count = 5, _in_a_step(problem, 10)
    c, momentum, k = torch.zeros(1, 3, GRID, GRID), torch.zeros(1, 3, GRID, GRID), 0
    rows = problem.shuffled()
    while problem.meter.left >= 2 * signs * count:
        batch = torch.tensor([next(rows) for _ in range(count)])
        ahead, total = c + 0.9 * momentum, torch.zeros_like(c)
        size = 0.05 / (k + 1) ** 0.1
        for _ in range(signs):
            way = torch.randint(2, c.shape, generator=problem.draw) * 2.0 - 1
            rise = problem.loss(batch, ahead + size * way).mean() - problem.loss(batch, ahead - size * way).mean()
            total += rise / (2 * size) * way / signs
        momentum = 0.9 * momentum - 0.1 / (k + 1) ** 0.4 * total
        c, k = problem.limited(c + momentum), k + 1
        yield c


def evolution(problem: Problem) -> Iterator[Tensor]:
    """A surrogate's N, then CMA-ES on what to add to it, coarse to fine; a generation's candidates face the same images."""
    cma = optional("cma")
    _, c = _first_round(problem, min(FIRST, problem.meter.left // 3))
    yield c
    count, rows, spent = _in_a_step(problem, 16), problem.shuffled(), problem.meter.left // 2
    for grid in (GRID // 2, GRID):
        d, seed = 3 * grid * grid, int(torch.randint(1, 2**31, (1,), generator=problem.draw))
        search = cma.CMAEvolutionStrategy(d * [0.0], 0.05, {"seed": seed, "CMA_diagonal": d > 100, "verbose": -9})
        floor = problem.meter.left - spent if grid < GRID else 0

        def moved(x: NDArray[np.float64], c: Tensor = c, grid: int = grid) -> Tensor:
            added = torch.from_numpy(x).float().view(1, 3, grid, grid)
            return problem.limited(c + F.interpolate(added, GRID, mode="bicubic", align_corners=False))

        while problem.meter.left - search.popsize * count >= floor:
            batch = torch.tensor([next(rows) for _ in range(count)])
            candidates = search.ask()
            search.tell(candidates, [float(problem.loss(batch, moved(x)).mean()) for x in candidates])
            yield moved(search.mean)
        c = moved(search.mean)


LEARNERS: dict[str, Learner] = {
    "statistics": statistics, "one pass": one_pass, "surrogate": surrogate, "spsa": spsa, "corrected spsa": corrected_spsa,
    "cma": evolution,
}  # fmt: skip


def default(budget: int) -> str:
    """The learner that rose most for so many images, measured on faces that were not aligned yet."""
    return "surrogate" if budget >= 5000 else "cma"


def fit_black_box(
    classifier: TorchClassifier | BlackBox, images: Pictures, labels: Labels, val_images: Pictures, val_labels: Labels,
    val_subjects: NDArray[np.str_] | None = None, *, query_budget: int = 0, query_log: str | Path | None = None,
    learner: str = "", min_psnr: float = 30.0, reference: Pictures | None = None, seed: int = 0, device: torch.device = CPU,
) -> Perturbation:  # fmt: skip
    """The perturbation found for labelled images: by gradient where the classifier has one, else by at most so many queries.

    images n x 3 x H x W (uint8), labels n (class indices), the same for validation; `val_subjects` the person on each (for the
    interval). Of the query budget a sixth is kept for validation images as they are and with N, an eighth for choosing N's
    strength on fitting images. Answers are kept in the SQLite file `query_log`: a killed fit, called again, sends only what is
    new, and ends as if it had not been killed. A surrogate is trained on `device`; a TorchClassifier stays where it is.
    `about` of the result holds how it was found: `used` images of the budget, `unsteady` (the largest difference between two
    answers to one image), `rounds` (images used after each), `strength`, and on the validation images asked `val_before` and
    `val_after`, the rise's 95 % interval `val_rise_lo` and `val_rise_hi`, in percent, and `recommended` (`Comparison.why_not`).
    Where the log holds answers, a few of those images are asked anew first, beyond the budget (`Meter.require_same`). Validation
    images without an answer have no part in what `about` says; those that N leaves without one count as wrong.
    Raises `DataError` for an unknown learner, a budget too small for it, a classifier that isn't the one in the log, and
    whatever the classifier and the log raise; `ClassOrderError`, after the first validation images, where the answers are right
    so seldom that the classes must stand in another order.
    """
    if isinstance(classifier, TorchClassifier):
        return gradient.fit(classifier, images, labels, val_images, val_labels, Settings(min_psnr=min_psnr), seed)
    labels, val_labels = (class_indices(given) for given in (labels, val_labels))
    learner = learner or default(query_budget)
    if learner not in LEARNERS:
        raise DataError(f"There is no learner '{learner}': choose one of {', '.join(LEARNERS)}.")
    if learner == "cma":
        optional("cma")  # here, before anything is paid for
    if learner == "statistics" and reference is None:
        raise DataError("The learner 'statistics' needs reference images: give `reference`, or choose another learner.")
    if query_log is None:
        raise DataError("Asking costs: name a file as `query_log`, so that no answer is paid for twice.")
    if len(labels.unique()) < 2:
        raise DataError("The fitting images have one class only: a perturbation needs labelled images of each class.")
    for given in (labels, val_labels):
        require_known(given, classifier.classes)
    sets = {"fitting": images, "validation": val_images, "reference": images if reference is None else reference}
    for what, others in sets.items():
        require_range(others)
        if others.shape[1:] != images.shape[1:]:
            raise DataError(f"The {what} images are {tuple(others.shape[1:])}, not {tuple(images.shape[1:])}: resize them.")
    draw = seeds.seed_all(seed)
    rows = torch.randperm(len(val_images), generator=draw)[: query_budget // CHECKED].sort().values.numpy()
    if len(rows) < REPEATED:
        least = f"{CHECKED * REPEATED} and {REPEATED} or more"
        raise DataError(f"{query_budget} queries and {len(val_images)} validation images are too few for a check: give {least}.")
    meter = Meter(classifier, QueryLog(query_log), query_budget)
    checked = Split(val_images, val_labels[rows], None if val_subjects is None else val_subjects[rows], rows)
    meter.require_same(checked.images)
    before, unsteady = meter.scores(checked.images), meter.unsteady(checked.images[:REPEATED])
    there = before.isfinite().all(1).numpy()
    before, checked = before[there], Split(val_images, checked.labels[there], checked.subjects[there], rows[there])
    require_order(before.argmax(1).numpy(), checked.labels.numpy(), classifier.classes)
    problem = Problem(meter, images, labels, min_psnr, draw, reference, device)
    tried = min(query_budget // (2 * CHECKED), len(images))
    c, strength, rounds = _asked(problem, LEARNERS[learner], len(rows), tried)
    if not rounds:
        raise DataError(f"A query budget of {query_budget} doesn't reach the first round of '{learner}': raise it.")
    found = Perturbation(problem.enlarged(strength * c)[0])
    after = counted_wrong(meter.scores(found.apply_uint8(checked.images)), checked.labels)
    check = compare(before, after, checked)
    meter.close()
    about = {
        "learner": learner, "budget": query_budget, "used": meter.used, "unsteady": unsteady, "rounds": rounds, "seed": seed,
        "min_psnr": min_psnr, "strength": strength,
        "val_before": check.accuracy("before"), "val_after": check.accuracy("after"),
        "val_rise_lo": check.rise["_lo"], "val_rise_hi": check.rise["_hi"], "recommended": check.recommended,
        "why_not": check.why_not, "validation": check.evidence(), "fitted_on": card.fitted_on(images, labels),
        "classifier": classifier.identity, **card.distortion(images[:PROBE], found.apply_uint8(images[:PROBE])),
    }  # fmt: skip
    return found.with_about(about)


def _asked(problem: Problem, learner: Learner, kept: int, tried: int) -> tuple[Tensor, float, list[int]]:
    """The last coefficients that the learner found, the strength that does best, and how many images were used each round.

    `kept` images of the budget are left, and before that `tried` for each strength, on the same fitting images.
    """
    meter, c, rounds = problem.meter, torch.zeros(1, 3, GRID, GRID), []
    reserve = kept + len(STRENGTHS) * tried
    meter.budget -= reserve
    with suppress(BudgetSpentError):
        for c in learner(problem):  # noqa: B007 the last one counts
            rounds.append(meter.used)
    meter.budget += reserve
    c = problem.limited(c).detach()
    rows = torch.randperm(len(problem), generator=problem.draw)[:tried]
    losses = [float(problem.loss(rows, strength * c).mean()) for strength in STRENGTHS] if rounds else [0.0]
    return c, STRENGTHS[losses.index(min(losses))], rounds
