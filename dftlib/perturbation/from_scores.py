"""Fitting a perturbation from scores alone, to a classifier that can't be opened; every image asked is paid for.

`fit_black_box` takes gradients where the classifier has them and asks where it has none. `LEARNERS` are the ways of asking, in
the order of their price, each over the few coefficients of a `Problem`.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dftlib import seeds
from dftlib.classifiers.base import TorchClassifier
from dftlib.classifiers.black_box import BlackBox
from dftlib.datasets.base import Labels, Split, Subjects, class_indices, require_known, warn_of_absent
from dftlib.errors import DataError
from dftlib.images import Pictures, batches, require_range, whole_levels
from dftlib.metrics.class_order import require_order
from dftlib.metrics.comparison import compare
from dftlib.models.base import Backbone
from dftlib.perturbation import baselines, card, gradient
from dftlib.perturbation.gradient import Settings
from dftlib.perturbation.perturbation import Perturbation
from dftlib.perturbation.problem import CPU, GRID, NUDGE, PROBE, WAYS, Problem, length
from dftlib.perturbation.query_log import BudgetSpentError, Meter, QueryLog
from dftlib.perturbation.surrogates import BATCH, ENCODED, LIMIT, RIDGE, Encoded, Imitation, Surrogate

CHECKED = 12  # one part in so many of the budget goes to validation images, and as much again to the same ones with N
ENOUGH = 300  # validation images asked, at most
REPEATED = 8  # images sent twice, to see whether they are answered alike
FIRST, AGAIN = 1000, 500  # images asked in the first round of 'surrogate', at most, and in each further one
RATE, DOUBT = 0.01, 0.03  # of 'spsa': step, and least weight of an image
AROUND = 30.0  # dB of the noise that a surrogate's images are asked under
DEFAULT = "surrogate"  # of the learners, the one that rose most on aligned faces, whatever the budget
Learner = Callable[[Problem], Iterator[Tensor]]


def statistics(problem: Problem) -> Iterator[Tensor]:
    """Asks nothing: moves the mean image to that of reference images, in the log-odds that N adds to, smoothly."""
    assert problem.reference is not None
    own, wanted = (baselines.mean_picture(images).clamp(0.01, 0.99).logit() for images in (problem.images, problem.reference))
    yield problem.limited(problem.reduced((wanted - own) / 2))


def one_pass(problem: Problem) -> Iterator[Tensor]:
    """Asks each image once as it is, fits a surrogate to the answers, and a free N to the surrogate."""
    model = Surrogate(problem)
    _ask_once(model)
    model.learn(20, 0.003)
    yield model.fitted(problem.nothing(*problem.images.shape[2:]), 150)


def encoder(problem: Problem) -> Iterator[Tensor]:
    """Asks each image once as it is, fits one layer on a known network to the answers, and N through both (AReS, 2026)."""
    assert problem.encoder is not None
    model = Encoded(problem, problem.encoder)
    _ask_once(model)
    model.learn()
    yield model.fitted(problem.nothing(), 150)


def _ask_once(model: Imitation) -> None:
    """Asks the images as they are, in random order, as many as can be asked."""
    rows = torch.randperm(len(model.problem), generator=model.problem.draw)
    model.ask(rows[: model.problem.meter.left], model.problem.nothing())


def _ask_around(model: Imitation, rows: Tensor, c: Tensor) -> None:
    """Asks images under c and noise of about the distortion that N may have, half of it twice as smooth."""
    for part, grid in zip(rows.chunk(2), (GRID // 2, GRID), strict=False):
        model.ask(part, c + model.problem.noise(part, AROUND, grid))


def _steps(problem: Problem, price: int, least: int) -> Iterator[int]:
    """Counts steps while one of `price` images can be asked, and no more than if each asked `least` that are new.

    So many are new where images move; those of black and white alone don't, and what is asked again costs nothing.
    """
    return takewhile(lambda _: problem.meter.left >= price, range(problem.meter.left // least))


def surrogate(problem: Problem) -> Iterator[Tensor]:
    """Rounds: ask images under N and smooth noise, train a surrogate on all answers, fit N to it; the mean of the rounds' Ns.

    Each N suits its own surrogate's mistakes, so the Ns scatter; their mean keeps what they share.
    """
    model, c, rows = Surrogate(problem), problem.nothing(), problem.shuffled()
    first = torch.tensor([next(rows) for _ in range(min(FIRST, problem.meter.left))])
    model.ask(first[: len(first) // 3], c)
    _ask_around(model, first[len(first) // 3 :], c)
    model.learn(30, 0.003)
    rounds = [c := model.fitted(c, 150)]
    yield c
    for _ in _steps(problem, AGAIN, AGAIN):
        _ask_around(model, torch.tensor([next(rows) for _ in range(AGAIN)]), c)
        model.learn(8, 0.0015)
        c = model.fitted(c, 75)
        rounds.append(c)
        yield problem.limited(torch.stack(rounds[len(rounds) // 2 :]).mean(0))


def _in_a_step(problem: Problem, shown: int) -> int:
    """Images in a step that shows each `shown` times: at most 40, and at least ten steps of 5 where the budget allows."""
    return max(5, min(40, problem.meter.left // (10 * shown)))


def spsa(problem: Problem) -> Iterator[Tensor]:
    """Random directions: doubtful images, each shown as it is and moved `WAYS` ways of its own; the mean of the last half's Ns.

    Only where the classifier is in doubt does a small change move its score, so images are drawn in proportion to
    p (1 - p), p the last score of the true class, and weighted back. Spall (1992), each image with directions of its own.
    """
    doubt, c, found = torch.full((len(problem),), 0.25), problem.nothing(), list[Tensor]()
    mean, count = torch.zeros_like(c), _in_a_step(problem, 1 + WAYS)
    for _ in _steps(problem, count * (1 + WAYS), count * WAYS):
        share = (doubt + DOUBT) / (doubt + DOUBT).sum()
        rows = torch.multinomial(share, count, replacement=True, generator=problem.draw)
        ways = problem.directions(rows)
        moved = (c + F.pad(ways, (0, 0, 0, 0, 0, 0, 0, 0, 1, 0))).flatten(0, 1)
        losses = problem.loss(rows.repeat(1 + WAYS), moved).unflatten(0, (1 + WAYS, count))
        doubt[rows] = losses[0] * (1 - losses[0])
        change = ((losses[1:] - losses[0]) / (share[rows] * len(problem)))[..., None, None, None]
        mean.lerp_((change * ways / ways.square().mean((2, 3, 4), keepdim=True)).mean((0, 1))[None], 0.1)
        c = problem.limited(c - RATE * mean / length(mean))
        found.append(c)
        yield problem.limited(torch.stack(found[len(found) // 2 :]).mean(0))


def corrected_spsa(problem: Problem) -> Iterator[Tensor]:
    """SPSA with gradient correction, as BlackVIP has it (2023, section 4): five two-sided random signs for a batch and step.

    The momentum is Nesterov's: the gradient is taken where the momentum leads. It starts from nothing known.
    """
    signs, count = 5, _in_a_step(problem, 10)
    c, momentum, rows = problem.nothing(), problem.nothing(), problem.shuffled()
    least = signs * min(count, len(problem))  # as of a batch that crosses from one shuffle to the next half may be the same
    for k in _steps(problem, 2 * signs * count, least):
        batch = torch.tensor([next(rows) for _ in range(count)])
        ahead, total = c + 0.9 * momentum, torch.zeros_like(c)
        size = 0.05 / (k + 1) ** 0.1
        for _ in range(signs):
            way = torch.randint(2, c.shape, generator=problem.draw) * 2.0 - 1
            way /= length(way)
            rise = problem.loss(batch, ahead + size * way).mean() - problem.loss(batch, ahead - size * way).mean()
            total += rise / (2 * size) * way / signs
        momentum = 0.9 * momentum - 0.1 / (k + 1) ** 0.4 * total
        c = problem.limited(c + momentum)
        yield c


LEARNERS: dict[str, Learner] = {
    "statistics": statistics, "one pass": one_pass, "encoder": encoder, "surrogate": surrogate, "spsa": spsa,
    "corrected spsa": corrected_spsa,
}  # fmt: skip


def key(learner: str, query_budget: int, min_psnr: float, mirror: bool = True) -> dict[str, object]:
    """All numbers that decide what `fit_black_box` finds, JSON-able, but for the seed, the images and the classifier."""
    return {
        "learner": learner, "budget": query_budget, "min_psnr": min_psnr, "mirror": mirror, "first": FIRST, "again": AGAIN,
        "grid": GRID, "checked": (CHECKED, ENOUGH), "repeated": REPEATED, "probe": (PROBE, "spread"), "limit": LIMIT,
        "batch": BATCH, "encoder": (ENCODED, RIDGE), "basis": "cosines", "spsa": (WAYS, NUDGE, RATE, DOUBT), "around": AROUND,
        "gradient": gradient.key(Settings(min_psnr=min_psnr, mirror=mirror)),
    }  # fmt: skip


def fit_black_box(
    classifier: TorchClassifier | BlackBox, images: Pictures, labels: Labels, val_images: Pictures, val_labels: Labels,
    val_subjects: Subjects | None = None, *, query_budget: int = 0, query_log: str | Path | None = None,
    learner: str = DEFAULT, min_psnr: float = 30.0, reference: Pictures | None = None, encoder: Backbone | None = None,
    seed: int = 0, mirror: bool = True, device: torch.device = CPU,
) -> Perturbation:  # fmt: skip
    """The perturbation found for labelled images: by gradient where the classifier has one, else by at most so many queries.

    images n x 3 x H x W (uint8), labels n (class indices), the same for validation; `val_subjects` the person on each (for the
    interval). Of the query budget a sixth, and no more than `ENOUGH` images, is kept for validation images as they are and with
    N. Where the classes depend on left and right, say `mirror=False`: else N is its own mirror image, half as many numbers to
    find. `reference` (images whose colours the classifier knows) and `encoder` (a network whose features it may share) are what
    the learners 'statistics' and 'encoder' need. Answers are kept in the SQLite file `query_log`: a killed fit, called again,
    sends only what is new, and ends as if it had not been killed; beyond the budget it asks a few images anew
    (`Meter.require_same`). A surrogate is trained on `device`; a TorchClassifier stays where it is. Seeds torch's own generators.
    `about` of the result is that of `fit` for a classifier with a gradient; else it holds `used` images of the budget, `unsteady`
    (the largest difference between two answers to one image), `rounds` (images used after each), and of the validation images
    that were answered `val_before` and `val_after`, the rise's 95 % interval `val_rise_lo` and `val_rise_hi`, in percent, and
    `recommended`; those that N leaves unanswered count as wrong.
    Raises `DataError` for an unknown learner, a budget too small for it, images that no N changes, a classifier that isn't the
    one in the log, and whatever the classifier and the log raise; `ClassOrderError` where the classes must stand in another
    order. Warns where the validation images that are asked lack a class.
    """
    if not isinstance(classifier, TorchClassifier | BlackBox):
        what = type(classifier).__name__
        raise DataError(f"A fit needs TorchClassifier(network) or what `load_classifier` gives, not a {what}: wrap it.")
    how = Settings(min_psnr=min_psnr, mirror=mirror)  # refuses numbers that make no sense
    if isinstance(classifier, TorchClassifier):
        return gradient.fit(classifier, images, labels, val_images, val_labels, how, seed)
    labels, val_labels = (class_indices(given).cpu() for given in (labels, val_labels))
    if learner not in LEARNERS:
        raise DataError(f"There is no learner '{learner}': choose one of {', '.join(LEARNERS)}.")
    if learner == "statistics" and reference is None:
        raise DataError("The learner 'statistics' needs reference images: give `reference`, or choose another learner.")
    if learner == "encoder" and encoder is None:
        raise DataError("The learner 'encoder' needs a known network: give `encoder`, or choose another learner.")
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
    for pictures, known in ((images, labels), (val_images, val_labels)):
        if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) != len(known):
            raise DataError(f"Images {tuple(pictures.shape)} and {len(known)} labels: give n x 3 x H x W with n labels.")
    if all(bool((whole_levels(x) % 255 == 0).all()) for x in batches(images)):
        raise DataError("The fitting images are black and white alone, which no N changes: give some that have levels between.")
    subjects = Split(val_images, val_labels, val_subjects).subjects
    draw = seeds.seed_all(seed)
    rows = torch.randperm(len(val_images), generator=draw)[: min(query_budget // CHECKED, ENOUGH)].sort().values.numpy()
    if len(rows) < REPEATED:
        least = f"{CHECKED * REPEATED} and {REPEATED} or more"
        raise DataError(f"{query_budget} queries and {len(val_images)} validation images are too few for a check: give {least}.")
    warn_of_absent(labels, val_labels[rows])
    meter = Meter(classifier, QueryLog(query_log), query_budget)
    checked = Split(val_images, val_labels[rows], subjects[rows], rows)
    meter.require_same(checked.images)
    before, unsteady = meter.scores(checked.images), meter.unsteady(checked.images[:REPEATED])
    there = before.isfinite().all(1).numpy()
    before, checked = before[there], Split(val_images, checked.labels[there], checked.subjects[there], rows[there])
    require_order(before.argmax(1).numpy(), checked.labels.numpy(), classifier.classes)
    problem = Problem(meter, images, labels, min_psnr, draw, reference, device, mirror, encoder)
    c, rounds = problem.nothing(), list[int]()
    meter.budget -= len(rows)  # kept for the validation images with N
    with suppress(BudgetSpentError):
        for c in LEARNERS[learner](problem):  # noqa: B007 the last one counts
            rounds.append(meter.used)
    meter.budget += len(rows)
    if not rounds:
        raise DataError(f"A query budget of {query_budget} doesn't reach the first round of '{learner}': raise it.")
    found = Perturbation(problem.enlarged(problem.limited(c).detach())[0])
    after = meter.scores(found.apply_uint8(checked.images))
    check = compare(before, after, checked)
    meter.close()
    about = {
        "learner": learner, "budget": query_budget, "used": meter.used, "unsteady": unsteady, "rounds": rounds, "seed": seed,
        "min_psnr": min_psnr, "mirror": mirror,
        "val_before": check.accuracy("before"), "val_after": check.accuracy("after"),
        "val_rise_lo": check.rise["_lo"], "val_rise_hi": check.rise["_hi"], "recommended": check.recommended,
        "why_not": check.why_not, "validation": check.evidence(), "fitted_on": card.fitted_on(images, labels),
        "classifier": classifier.identity, **card.distortion(problem.probe, found.apply_uint8(problem.probe)),
    }  # fmt: skip
    return found.with_about(about)
