"""PSNR and SSIM against scikit-image, picture by picture."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from dftlib.datasets import synthetic
from dftlib.similarity import psnr, ssim

Pair = tuple[Tensor, Tensor]


def noise() -> Pair:
    random = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 40, 32, generator=random), torch.rand(4, 3, 40, 32, generator=random)


def faces() -> Pair:
    """Faces, and the same with noise, a shift, less contrast, and one colour turned off."""
    x = torch.from_numpy(synthetic.load("press", 64, seed=2, subjects=4, per_subject=1).images) / 255
    y = x.clone()
    y[0] = (y[0] + 0.05 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y[1] = y[1].roll(1, 2)
    y[2] = 0.5 + 0.6 * (y[2] - 0.5)
    y[3, 1] = 0
    return x, y


@pytest.mark.parametrize("pair", [noise, faces])
def test_psnr_is_scikit_images(pair: Callable[[], Pair]) -> None:
    a, b = pair()
    wanted = [peak_signal_noise_ratio(p.numpy(), q.numpy(), data_range=1) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b).numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("pair", [noise, faces])
def test_ssim_is_wangs(pair: Callable[[], Pair]) -> None:
    a, b = pair()
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
    wanted = [structural_similarity(p.double().numpy(), q.double().numpy(), **how) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b).numpy(), wanted, rtol=0, atol=1e-4)


def test_equal_pictures() -> None:
    a, _ = faces()
    assert psnr(a, a).tolist() == [math.inf] * 4
    np.testing.assert_allclose(ssim(a, a).numpy(), 1, rtol=0, atol=1e-6)


def test_both_are_symmetric() -> None:
    a, b = faces()
    torch.testing.assert_close(psnr(a, b), psnr(b, a))
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
