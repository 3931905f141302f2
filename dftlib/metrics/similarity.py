"""How far a perturbed image is from the original: PSNR, SSIM and PASS, batched, on the device of the images."""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue
ITERATIONS, EPSILON = 50, 1e-3  # OpenCV's: an alignment ends after so many steps, or one that changes the correlation by less
CHUNK = 2**18  # pixels of pairs aligned at once: bounds memory, and more would fall out of a processor's cache
ON_GPU = 16  # times as many there, where each small sum would wait for its launch: 0.2 GB of work space


def key() -> dict[str, object]:
    """The numbers of this module that decide PASS, JSON-able."""
    return {"grey": GREY, "iterations": ITERATIONS, "epsilon": EPSILON}


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, n decibels (infinite for equal images); images n x C x H x W in [0, 1]."""
    return -10 * torch.log10((a - b).square().mean((1, 2, 3)))


def _filter(x: Tensor, taps: Tensor) -> Tensor:
    """Images n x C x H x W correlated with the taps, down and across, where they fit."""
    n, channels, height, width = x.shape
    planes, lost = n * channels, len(taps) - 1
    if not planes:
        return x[..., lost:, lost:]  # conv2d wants a channel
    # Planes as channels of one image go through the convolution several times faster, and come out the same to the bit.
    x = x.reshape(1, planes, height, width)
    x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(planes, 1, -1, 1), groups=planes)
    x = F.conv2d(x, taps.view(1, 1, 1, -1).expand(planes, 1, 1, -1), groups=planes)
    return x.view(n, channels, height - lost, width - lost)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair, n values up to 1; images n x C x H x W in [0, 1], H and W at least 11.

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


def _axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The columns (W) and the rows (H x 1) of images n x C x H x W, in pixels."""
    height, width = (torch.arange(size, dtype=x.dtype, device=x.device) for size in x.shape[2:])
    return width, height[:, None]


def _sample(x: Tensor, places: Tensor, outside: str) -> Tensor:
    """Images n x C x H x W read, linearly between pixels, at places n x 2 x H x W (column and row in pixels)."""
    height, width = x.shape[2:]
    # To 1/32 of a pixel, as OpenCV rounds: exact places would change PASS by up to 0.003.
    places = (32 * places).round_().permute(0, 2, 3, 1) / (16 * places.new_tensor([width - 1, height - 1])) - 1
    return F.grid_sample(x, places, padding_mode=outside, align_corners=True)


def _warped(x: Tensor, warps: Tensor) -> tuple[Tensor, Tensor]:
    """Where homographies n x 3 x 3 take the pixels of `x`, n x 2 x H x W, and the third coordinate they were divided by."""
    columns, rows = _axes(x)
    right, down, shift = warps.to(x.dtype)[..., None, None].unbind(2)
    places = right * columns + (down * rows + shift)
    return places[:, :2] / places[:, 2:], places[:, 2:]


def _homographies(a: Tensor, b: Tensor) -> Tensor:
    """For each pair the n x 3 x 3 that takes a place (x, y, 1) in `a` to its place in `b`; the identity if none is found.

    Evangelidis and Psarakis 2008, forward additive, with the filters, masks and stopping rule of OpenCV's
    `findTransformECC`. Every pair has its own state, and drops out when it has ended.
    """
    n, _, height, width = a.shape
    binomial, grey = a.new_tensor([1, 4, 6, 4, 1]) / 16, a.new_tensor(GREY)
    images = torch.cat([grey @ p.flatten(2) for p in (a, b)]).view(2 * n, 1, height, width)
    template, image = _filter(F.pad(images, [2] * 4, "reflect"), binomial).split([n, n])
    right = F.pad(image[..., 2:] - image[..., :-2], (1, 1)) / 2
    down = F.pad(image[..., 2:, :] - image[..., :-2, :], (0, 0, 1, 1)) / 2
    source = torch.cat((image, right, down), 1)
    # Sums around the mean keep more digits; a mean in float64 is exact for a flat image and leaves zeros.
    level, mean = (p.double().mean((2, 3), keepdim=True).to(p.dtype) for p in (image, template))
    template -= mean

    (columns, rows), middle = _axes(a), a.new_tensor([width - 1, height - 1]).view(2, 1, 1) / 2
    identity = torch.eye(3, dtype=torch.float64, device=a.device)
    warps, warp, rho = identity.repeat(n, 1, 1), identity.repeat(n, 1, 1), identity.new_full((n,), -2)
    active = torch.arange(n, device=a.device)
    space = a.new_empty(n, 12, height, width)  # made once: fresh memory takes longer than the sums
    for iteration in range(ITERATIONS):
        places, divisor = _warped(source, warp)
        seen = _sample(source, places, "zeros") if iteration else source  # the identity moves nothing
        inside = (places - middle).abs() <= middle + 0.5
        mask = (inside[:, :1] & inside[:, 1:]).to(a.dtype)
        # Twelve planes: derivatives by the homography's eight free numbers, column by column; image; masked: image, template, 1.
        planes = space[: len(active)]
        slopes, last = planes[:, 6:9], planes[:, 8:9]
        torch.div(seen[:, 1:], divisor, out=slopes[:, :2])
        torch.sum(slopes[:, :2] * places, 1, keepdim=True, out=last).neg_()
        torch.mul(slopes, columns, out=planes[:, :3])
        torch.mul(slopes, rows, out=planes[:, 3:6])
        torch.sub(seen[:, :1], level * mask, out=last)  # the ninth number is 1 and free no more
        torch.mul(last, mask, out=planes[:, 9:10])
        torch.mul(template, mask, out=planes[:, 10:11])
        planes[:, 11:] = mask
        sums = (planes.flatten(2) @ planes.flatten(2).mT).double()
        centred = sums - sums[:, :, 11:] * sums[:, 11:] / sums[:, 11:, 11:]
        power, common, norm = centred[:, 9, 9], centred[:, 9, 10], centred[:, 10, 10]
        before, rho = rho, common / (power * norm).sqrt()
        projected = centred[:, :8, [8, 10]]  # the image and the template on the derivatives
        solved, singular = torch.linalg.solve_ex(sums[:, :8, :8], projected)
        explained = (projected * solved[..., :1]).sum(1)
        gain = (power - explained[:, 0]) / (common - explained[:, 1])
        step = gain[:, None] * solved[..., 1] - solved[..., 0]
        warp = warp + F.pad(step, (0, 1)).unflatten(1, (3, 3)).mT
        found = (singular == 0) & (common > explained[:, 1]) & rho.isfinite() & step.isfinite().all(1)
        warps[active] = warp.where(found[:, None, None], identity)
        going = found & ((rho - before).abs() >= EPSILON)
        if not going.any():
            break
        if not going.all():
            active, warp, rho, source, template, level = (v[going] for v in (active, warp, rho, source, template, level))
    return warps


@torch.no_grad()
def pass_score(a: Tensor, b: Tensor) -> Tensor:
    """Perceptual adversarial similarity of each pair, n values up to 1: the SSIM of `a` and of `b` aligned with it.

    Originals `a` and perturbed images `b`, n x 3 x H x W (uint8, or float in [0, 1]), H and W at least 11. Rozsa et al.,
    section 3: a homography that maximises the enhanced correlation coefficient warps `b` onto `a`, so that plausible shifts
    and rotations don't count; hence not symmetric. What falls outside `b` repeats its edge. Where no homography is found
    (flat or unrelated images), `b` stays as it is; one that is found is used, even if it lowers SSIM. Raises ValueError for
    other shapes.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[2:]) < 11:
        raise ValueError(
            f"PASS compares two batches of n x 3 x H x W, H and W at least 11, not {tuple(a.shape)} and {tuple(b.shape)}."
        )
    pixels = CHUNK * (1 if a.device.type == "cpu" else ON_GPU)
    scores, at_once = [], max(1, pixels // a.shape[2:].numel())
    for pair in zip(a.split(at_once), b.split(at_once), strict=True):
        p, q = (x if x.is_floating_point() else x / 255 for x in pair)
        places, _ = _warped(q, _homographies(p, q))
        scores.append(ssim(p, _sample(q, places, "border")))
    return torch.cat(scores)
