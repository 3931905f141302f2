"""Small perturbations that flip one attribute of one picture: fast gradient sign and fast flipping attribute.

*Facial Attributes: Accuracy and Adversarial Robustness*, section 3. Grey levels run from 0 to 255 here, as in the paper; every
picture of a batch has its own state, and only those not flipped yet are computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dftlib.attributes import Network, losses, present
from dftlib.classifiers import Pictures, batches, to_float

METHODS, SEARCHES = ("fgs", "ffa"), ("line", "iterative")
LIMIT = 256  # grey levels: a line-search that has doubled to here without a flip gives up
STEPS = 50  # so does the iterative search, after so many steps
FINE = 1 / 8  # grey levels within which FFA's line-search is narrowed; FGS stays on whole ones
BATCH = 64  # pictures at once on a processor, within its cache; a GPU takes all


@dataclass(frozen=True)
class Flips:
    """What became of n pictures.

    images:  uint8 n x 3 x H x W, 0 to 255; where no flip was found, the picture as it was
    flipped: bool n
    size:    float n, grey levels of the perturbation's largest value (line-search) or the number of steps (iterative)
    """

    images: Tensor
    flipped: Tensor
    size: Tensor


def flip(
    net: Network, images: Pictures, labels: Tensor, method: str, search: str, loss: str = "euclidean", attribute: int = 0
) -> Flips:
    """Turns a network's classification of one attribute around, picture by picture, with as small a change as is found.

    images uint8 n x 3 x H x W; labels n, -1 or +1, which only FGS needs. A correctly classified picture becomes an adversarial
    example, a wrongly classified one is set right (section 3.2). `attribute` is the output of MOON. Every answer counts on
    the rounded picture. Raises ValueError for an unknown method or search, and for FGS on a network of several attributes.
    """
    if method not in METHODS or search not in SEARCHES:
        raise ValueError(f"There is no '{method}' by '{search}': choose one of {METHODS} by one of {SEARCHES}.")
    device = next(net.parameters()).device
    found = []
    bar = tqdm(total=len(images), desc=f"{method} {search}", unit="picture", disable=None, leave=False)
    at_once = BATCH if device.type == "cpu" else max(len(images), 1)
    for part, signs in zip(batches(images, at_once), labels.split(at_once), strict=True):
        original = to_float(part, device) * 255
        attack = _Attack(net, original, signs.to(device), method, loss, attribute)
        z, size = (_line if search == "line" else _iterative)(attack, original.round_(), method)
        found.append(
            Flips(torch.where(size.isfinite().view(-1, 1, 1, 1), z, original).byte().cpu(), size.isfinite().cpu(), size.cpu())
        )
        bar.update(len(part))
    bar.close()
    return Flips(*(torch.cat([getattr(f, name) for f in found]) for name in ("images", "flipped", "size")))


class _Attack:
    """The direction in which a picture is moved, and whether it has flipped."""

    def __init__(self, net: Network, original: Tensor, labels: Tensor, method: str, loss: str, attribute: int) -> None:
        self.net, self.loss, self.method = net, loss, method
        scores = self._scores(original)
        self.columns = slice(0, 2) if loss == "softmax" else slice(attribute, attribute + 1)
        if method == "fgs" and scores.shape[1] > len(scores[0, self.columns]):
            raise ValueError("FGS only raises the loss: it can't choose one attribute of MOON. Use method 'ffa'.")
        self.was = present(scores[:, self.columns], loss)[:, 0]
        self.labels = labels
        # FGS raises the loss of a picture that is right and lowers that of one that is wrong.
        self.way = torch.where(self.was == (labels > 0), 1.0, -1.0)

    def _scores(self, pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.net(pictures / 255).clone()

    def flips(self, pictures: Tensor, rows: Tensor) -> Tensor:
        """Whether these pictures, which come from `rows`, are classified otherwise than those were."""
        return present(self._scores(pictures)[:, self.columns], self.loss)[:, 0] != self.was[rows]

    def direction(self, pictures: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Directions of maximum norm 1 (equations 7 and 9), and whether the pictures have flipped already."""
        with torch.enable_grad():
            x = pictures.detach().requires_grad_()
            scores = self.net(x / 255)
            if self.method == "fgs":
                objective = (self.way[rows] * losses(scores, self.labels[rows, None], self.loss)[:, 0]).sum()
            else:
                # Equation 8: the attribute's score, or the higher of its two logits (section 5), should become zero; all others
                # are their own target, so they add nothing. As the paper says of iterating, for the picture as it is now.
                objective = -scores[:, self.columns].amax(1).square().sum() / 2
            (gradient,) = torch.autograd.grad(objective, x)
        flipped = present(scores.detach()[:, self.columns], self.loss)[:, 0] != self.was[rows]
        if self.method == "fgs":
            return gradient.sign(), flipped
        return gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30), flipped


def _moved(pictures: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    return (pictures + size.view(-1, 1, 1, 1) * direction).clamp_(0, 255)


def _line(attack: _Attack, original: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Doubles the step until the class flips, then bisects the last bracket; rounded pictures, and sizes (infinite: no flip)."""
    active = torch.arange(len(original), device=original.device)
    direction, _ = attack.direction(original, active)
    low, high = (
        torch.zeros(len(original), device=original.device),
        torch.full((len(original),), torch.inf, device=original.device),
    )

    def tried(rows: Tensor, size: Tensor) -> Tensor:
        flips = attack.flips(_moved(original[rows], direction[rows], size).round_(), rows)
        high[rows], low[rows] = torch.where(flips, size, high[rows]), torch.where(flips, low[rows], size)
        return flips

    size = 1.0
    while size <= LIMIT and len(active):
        active = active[~tried(active, original.new_full((len(active),), size))]
        size *= 2
    while len(rows := (high.isfinite() & (high - low > (1 if method == "fgs" else FINE))).nonzero()[:, 0]):
        tried(rows, (low[rows] + high[rows]) / 2)
    return _moved(original, direction, high.nan_to_num(posinf=0)).round_(), high


def _iterative(attack: _Attack, original: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Steps of maximum norm 1 until the class flips; FFA's are fractional and rounded at the end."""
    z, size = original.clone(), torch.full((len(original),), torch.inf, device=original.device)
    active, last = torch.arange(len(original), device=original.device), torch.zeros_like(original)
    for step in range(STEPS + 1):
        direction, crossed = attack.direction(z[active], active)
        # Where the fractional picture has flipped and the rounded one not, FFA's gradient would lead back: go on as before.
        last[active] = torch.where(crossed.view(-1, 1, 1, 1), last[active], direction)
        over = active[crossed]
        done = attack.flips(z[over].round(), over) if method == "ffa" and len(over) else crossed[crossed]
        size[over[done]] = step
        active = active[size[active].isinf()]
        if not len(active) or step == STEPS:
            break
        z[active] = _moved(z[active], last[active], torch.ones(len(active), device=z.device))
    return z.round_(), size
