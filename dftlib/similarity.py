"""How far a perturbed picture is from the original: PSNR, SSIM and PASS, batched."""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue
ITERATIONS, EPSILON = 50, 1e-3  # an alignment ends after so many steps, or one that changes the correlation by less
HELD, AT_ONCE = 2**21, 2**17  # pixels of pairs prepared at once, to bound memory, and worked on at once, to stay in the cache


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, n decibels (infinite for equal pictures); pictures n x C x H x W in [0, 1]."""
    return -10 * torch.log10((a - b).square().mean((1, 2, 3)))


def _filter(x: Tensor, taps: Tensor) -> Tensor:
    """Pictures n x C x H x W correlated with the taps, down and across, where they fit."""
    n, channels, height, width = x.shape
    # Planes as channels of one picture go through the convolution several times faster, and come out the same to the bit.
    x, planes = x.reshape(1, -1, height, width), n * channels
    x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(planes, 1, -1, 1), groups=planes)
    x = F.conv2d(x, taps.view(1, 1, 1, -1).expand(planes, 1, 1, -1), groups=planes)
    return x.view(n, channels, *x.shape[2:])


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair, n values up to 1; pictures n x C x H x W in [0, 1], H and W at least 11.

    Wang et al. 2004: Gaussian window 11 x 11 of deviation 1.5, K1 = 0.01, K2 = 0.03, averaged over the places where the
    window fits and over channels.
    """
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=a.dtype, device=a.device) / 1.5) ** 2)
    taps /= taps.sum()
    mean_a, mean_b = _filter(a, taps), _filter(b, taps)
    var_a, var_b = _filter(a * a, taps) - mean_a**2, _filter(b * b, taps) - mean_b**2
    covariance = _filter(a * b, taps) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    index /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return index.mean((1, 2, 3))


def _grid(x: Tensor) -> Tensor:
    """The pixels (x, y, 1) of pictures n x C x H x W, row by row: 3 x HW."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=x.dtype, device=x.device) for size in x.shape[2:]), indexing="ij")
    return torch.stack((x, y, torch.ones_like(x))).flatten(1)


def _sample(x: Tensor, places: Tensor, outside: str) -> Tensor:
    """Pictures n x C x H x W read, linearly between pixels, at places n x 2 x HW (x and y in pixels)."""
    n, _, height, width = x.shape
    # To 1/32 of a pixel, as OpenCV rounds: exact places would change PASS by up to 0.004.
    places = (32 * places).round_().div_(places.new_tensor([[16 * (width - 1)], [16 * (height - 1)]])).sub_(1)
    return F.grid_sample(x, places.mT.reshape(n, height, width, 2), padding_mode=outside, align_corners=True)


def _homographies(a: Tensor, b: Tensor, at_once: int) -> Tensor:
    """For each pair the n x 3 x 3 that takes a pixel (x, y, 1) of `a` to its place in `b`; the identity if none is found.

    Evangelidis and Psarakis 2008, forward additive, with the filters, masks and stopping rule of OpenCV's
    `findTransformECC`. Pairs that end make room for the next: `at_once` are under way.
    """
    n, _, height, width = a.shape
    grey = (torch.cat((a, b)) * a.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
    template, image = _filter(F.pad(grey, [2] * 4, "reflect"), a.new_tensor([1, 4, 6, 4, 1]) / 16).split(n)
    right = F.pad(image[..., 2:] - image[..., :-2], (1, 1)) / 2
    down = F.pad(image[..., 2:, :] - image[..., :-2, :], (0, 0, 1, 1)) / 2
    source = torch.cat((image, right, down), 1)
    # Sums around the mean keep more digits; a mean in float64 is exact for a flat picture and leaves zeros.
    level = image.double().mean((2, 3)).to(a.dtype)
    template = template.flatten(1) - template.double().mean((2, 3)).to(a.dtype)

    grid, middle = _grid(a), a.new_tensor([[width - 1], [height - 1]]) / 2
    identity = torch.eye(3, dtype=torch.float64, device=a.device)
    warps, rho, steps = identity.repeat(n, 1, 1), identity.new_full((n,), -2), identity.new_zeros(n)
    waiting = torch.arange(n, device=a.device)
    active, waiting = waiting[:at_once], waiting[at_once:]
    space = a.new_empty(len(active), 12, height * width)  # made once: fresh memory takes longer than the sums
    while len(active):
        places = warps[active].to(a.dtype) @ grid
        scale, places = places[:, 2], places[:, :2] / places[:, 2:]
        seen = _sample(source[active], places, "zeros").flatten(2)
        inside = (places - middle).abs() <= middle + 0.5
        inside = (inside[:, 0] & inside[:, 1]).to(a.dtype)
        planes = space[: len(active)]
        right, down, both = planes[:, 6:9].unbind(1)
        torch.div(seen[:, 1:], scale[:, None], out=planes[:, 6:8])
        torch.addcmul(right * places[:, 0], down, places[:, 1], out=both).neg_()
        torch.mul(grid[:2, None], planes[:, None, 6:9], out=planes[:, :6].unflatten(1, (2, 3)))
        # Eight derivatives: the ninth number of a homography is 1, and its plane takes the image.
        torch.addcmul(seen[:, 0], level[active], inside, value=-1, out=planes[:, 8])
        torch.mul(planes[:, 8], inside, out=planes[:, 9])
        torch.mul(template[active], inside, out=planes[:, 10])
        planes[:, 11] = inside
        sums = (planes @ planes.mT).double()
        centred = sums - sums[:, :, 11:] * sums[:, 11:] / sums[:, 11:, 11:]
        norm, correlation = (centred[:, 9, 9] * centred[:, 10, 10]).sqrt(), centred[:, 9, 10]
        projected = centred[:, :8, [8, 10]]  # image and template on the derivatives
        solved, singular = torch.linalg.solve_ex(sums[:, :8, :8], projected)
        above, below = (centred[:, 9, 9:11] - (projected * solved[..., :1]).sum(1)).unbind(1)
        step = (above / below)[:, None] * solved[..., 1] - solved[..., 0]
        found = (singular == 0) & (below > 0) & (correlation / norm + step.sum(1)).isfinite()
        step = F.pad(step, (0, 1)).unflatten(1, (3, 3)).mT
        warps[active] = torch.where(found[:, None, None], warps[active] + step, identity)
        steps[active] += 1
        going = found & ((correlation / norm - rho[active]).abs() >= EPSILON) & (steps[active] < ITERATIONS)
        rho[active] = correlation / norm
        room = len(active) - int(going.sum())
        active, waiting = torch.cat((active[going], waiting[:room])), waiting[room:]
    return warps


@torch.no_grad()
def pass_score(a: Tensor, b: Tensor) -> Tensor:
    """Perceptual adversarial similarity of each pair, n values up to 1: the SSIM of `a` and of `b` aligned with it.

    Originals `a` and perturbed pictures `b`, n x 3 x H x W in [0, 1], H and W at least 11. Rozsa et al., section 3: a
    homography that maximises the enhanced correlation coefficient warps `b` onto `a`, so that plausible shifts and
    rotations don't count; hence not symmetric. What falls outside `b` repeats its edge. Where no homography is found
    (flat or unrelated pictures), `b` stays as it is; one that is found is used, even if it lowers SSIM.
    """
    if a.shape != b.shape or a.shape[1] != 3:
        raise ValueError(f"PASS compares two batches of n x 3 x H x W, not {tuple(a.shape)} and {tuple(b.shape)}.")
    held, at_once = (max(1, pixels // a[0, 0].numel()) for pixels in (HELD, AT_ONCE))
    scores = [a.new_empty(0)]
    for originals, perturbed in zip(a.split(held), b.split(held), strict=True):
        warps = _homographies(originals, perturbed, at_once).to(a.dtype)
        for p, q, warp in zip(originals.split(at_once), perturbed.split(at_once), warps.split(at_once), strict=True):
            places = warp @ _grid(q)
            scores.append(ssim(p, _sample(q, places[:, :2] / places[:, 2:], "border")))
    return torch.cat(scores)
