"""How far a perturbed picture is from the original: PSNR and SSIM, batched."""

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, n decibels (infinite for equal pictures); pictures n x C x H x W in [0, 1]."""
    return -10 * torch.log10((a - b).square().mean((1, 2, 3)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair, n values up to 1; pictures n x C x H x W in [0, 1], H and W at least 11.

    Wang et al. 2004: Gaussian window 11 x 11 of deviation 1.5, K1 = 0.01, K2 = 0.03, averaged over the places where the
    window fits and over channels.
    """
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=a.dtype, device=a.device) / 1.5) ** 2)
    taps /= taps.sum()
    channels = a.shape[1]

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    index /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return index.mean((1, 2, 3))
