"""Small perturbations that flip one attribute of one image: fast gradient sign and fast flipping attribute.

*Facial Attributes: Accuracy and Adversarial Robustness*, section 3. Grey levels run from 0 to 255 here, as in the paper; every
image of a batch has its own state, and only those not flipped yet are computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dftlib.images import Pictures, as_tensor, to_float
from dftlib.models.attribute_networks import Network, exactly, losses, present
from dftlib.progress import tqdm

METHODS = ("fgs", "ffa")
SEARCHES = {"line": "line-search", "iterative": "iterative"}  # and how the paper's tables call them
LIMIT = 256  # grey levels: a line-search that has doubled to here without a flip gives up
STEPS = 50  # so does the iterative search, after so many steps
FINE = 1 / 8  # grey levels within which FFA's line-search is narrowed; FGS stays on whole ones
SURE = 64  # units in the last place of 1 by which a score must have passed the boundary: alone or in a batch, it stays there
BATCH, ON_GPU = 64, 256  # images at once on a processor, within its cache, and on a GPU


def key() -> dict[str, object]:
    """The numbers of this module that decide which flips are found, JSON-able."""
    return {"limit": LIMIT, "steps": STEPS, "fine": FINE, "sure": SURE}


@dataclass(frozen=True)
class Flips:
    """What became of n images, on the device that they were given on.

    images:  uint8 n x 3 x H x W, 0 to 255; where no flip was found, the image as it was
    flipped: bool n
    size:    float n, grey levels of the perturbation's largest value (line-search) or the number of steps (iterative)
    """

    images: Tensor
    flipped: Tensor
    size: Tensor


@exactly()
def flip(
    net: Network, images: Pictures, labels: Tensor, method: str, search: str, loss: str = "euclidean", attribute: int = 0
) -> Flips:
    """Turns a network's classification of one attribute around, image by image, with as small a change as is found.

    images uint8 n x 3 x H x W; labels n, -1 or +1, which only FGS needs. A correctly classified image becomes an adversarial
    example, a wrongly classified one is set right (section 3.2). `attribute` is the output of MOON. Every answer counts on
    the rounded image. Batches are computed on the network's device. Raises ValueError for an unknown method or search, and
    for FGS on a network of several attributes.
    """
    if method not in METHODS or search not in SEARCHES:
        raise ValueError(f"There is no '{method}' by '{search}': choose one of {METHODS} by one of {tuple(SEARCHES)}.")
    source = as_tensor(images)
    device = next(net.parameters()).device
    found = torch.empty_like(source, dtype=torch.uint8)
    sizes = torch.empty(len(source), device=source.device)
    at_once = BATCH if device.type == "cpu" else ON_GPU
    bar = tqdm(total=len(source), desc=f"{method} {search}", unit="image", leave=False)
    for start in range(0, len(source), at_once):
        rows = slice(start, start + at_once)
        original = (to_float(source[rows], device) * 255).round_()
        attack = _Attack(net, labels[rows].to(device), method, loss, attribute)
        z, size = (_line if search == "line" else _iterative)(attack, original)
        found[rows] = torch.where(size.isfinite().view(-1, 1, 1, 1), z, original).byte().to(source.device)
        sizes[rows] = size.to(source.device)
        bar.update(len(original))
    bar.close()
    return Flips(found, sizes.isfinite(), sizes)


class _Attack:
    """The direction in which an image is moved, and whether it has flipped."""

    was: Tensor  # the classes of the images as they are, bool n; known from the first `direction` on

    def __init__(self, net: Network, labels: Tensor, method: str, loss: str, attribute: int) -> None:
        self.net, self.labels, self.method, self.loss = net, labels, method, loss
        self.columns = slice(0, 2) if loss == "softmax" else slice(attribute, attribute + 1)

    def _beyond(self, scores: Tensor, rows: Tensor) -> Tensor:
        """How far scores of images from `rows` are past the boundary, in units in the last place of 1."""
        own = scores[:, self.columns]
        gap = own[:, -1] - own[:, 0] if self.loss == "softmax" else own[:, 0]
        return torch.where(self.was[rows], -gap, gap) / torch.finfo(scores.dtype).eps

    def flips(self, images: Tensor, rows: Tensor) -> Tensor:
        """Whether these images, which come from `rows`, are classified otherwise than those were, beyond rounding."""
        with torch.no_grad():
            return self._beyond(self.net(images / 255), rows) > SURE

    def direction(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Directions of maximum norm 1 (equations 7 and 9), and whether the images have flipped already: those need none.

        The first call takes all images, as they are.
        """
        with torch.enable_grad():
            x = images.detach().requires_grad_()
            scores = self.net(x / 255)
            if not hasattr(self, "was"):
                self.was = present(scores.detach()[:, self.columns], self.loss)[:, 0]
            beyond = self._beyond(scores.detach(), rows)
            # From the boundary on FFA's gradient leads back or nowhere; what FFA finds is asked about once more in any case.
            flipped = beyond > SURE if self.method == "fgs" else beyond >= 0
            left = (~flipped).nonzero()[:, 0]
            if 2 * len(left) < len(rows):  # going there again with these costs less than coming back with all
                found = torch.zeros_like(images)
                if len(left):
                    found[left] = self.direction(images[left], rows[left])[0]
                return found, flipped
            if self.method == "fgs":
                if scores.shape[1] > self.columns.stop - self.columns.start:
                    raise ValueError("FGS only raises the loss: it can't choose one attribute of MOON. Use method 'ffa'.")
                # FGS raises the loss of an image that was right and lowers that of one that was wrong.
                way = torch.where(self.was[rows] == (self.labels[rows] > 0), 1.0, -1.0)
                objective = (way * losses(scores, self.labels[rows, None], self.loss)[:, 0]).sum()
            else:
                # Equation 8: the attribute's score, or the higher of its two logits (section 5), should become zero; all others
                # are their own target, so they add nothing. As the paper says of iterating, for the image as it is now.
                objective = -scores[:, self.columns].amax(1).square().sum() / 2
            (gradient,) = torch.autograd.grad(objective, x)
        if self.method == "fgs":
            return gradient.sign(), flipped
        return gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30), flipped


def _moved(images: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    return (images + size.view(-1, 1, 1, 1) * direction).clamp_(0, 255)


def _line(attack: _Attack, original: Tensor) -> tuple[Tensor, Tensor]:
    """Doubles the step until the class flips, then bisects the last bracket; rounded images, and sizes (infinite: no flip)."""
    active = torch.arange(len(original), device=original.device)
    direction, _ = attack.direction(original, active)
    low, high = (original.new_full((len(original),), end) for end in (0, torch.inf))

    def tried(rows: Tensor, size: Tensor) -> Tensor:
        flips = attack.flips(_moved(original[rows], direction[rows], size).round_(), rows)
        high[rows], low[rows] = torch.where(flips, size, high[rows]), torch.where(flips, low[rows], size)
        return flips

    size = 1.0
    while size <= LIMIT and len(active):
        active = active[~tried(active, original.new_full((len(active),), size))]
        size *= 2
    while len(rows := (high.isfinite() & (high - low > (1 if attack.method == "fgs" else FINE))).nonzero()[:, 0]):
        tried(rows, (low[rows] + high[rows]) / 2)
    return _moved(original, direction, high.nan_to_num(posinf=0)).round_(), high


def _iterative(attack: _Attack, original: Tensor) -> tuple[Tensor, Tensor]:
    """Steps of maximum norm 1 until the class flips; FFA's are fractional and rounded at the end."""
    found, size = original.clone(), original.new_full((len(original),), torch.inf)
    active, z, last = torch.arange(len(original), device=original.device), original, torch.zeros_like(original)
    for step in range(STEPS + 1):
        direction, done = attack.direction(z, active) if step < STEPS else (last, attack.flips(z, active))
        # Where the fractional image has flipped and the rounded one not surely, go on as before.
        last = torch.where(done.view(-1, 1, 1, 1), last, direction) if attack.method == "ffa" else direction
        if attack.method == "ffa" and done.any():
            done[done.clone()] = attack.flips(z[done].round(), active[done])
        if done.any():
            size[active[done]], found[active[done]] = step, z[done].round_()
            active, z, last = (given[~done] for given in (active, z, last))
        if not len(active):
            break
        z = (z + last).clamp_(0, 255)
    return found, size
