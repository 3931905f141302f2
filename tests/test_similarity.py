"""PSNR and SSIM against scikit-image, PASS against OpenCV and scikit-image, picture by picture."""

import math
import os
from collections.abc import Callable
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dftlib.datasets import load_dataset, synthetic
from dftlib.metrics import similarity
from dftlib.metrics.similarity import pass_score, psnr, ssim

DATA = os.environ.get("DFT_DATA", "")
KINDS = ("noise", "universal", "shift", "turn", "contrast")
WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
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


def perturbed(images: NDArray[np.uint8]) -> Pair:
    """The pictures once for each of `KINDS`, and what that makes of them, in 256 levels."""
    x, random = torch.tensor(images) / 255, torch.Generator().manual_seed(0)
    shape = x.shape[1:]
    moved, turned = torch.empty_like(x), torch.empty_like(x)
    for i, picture in enumerate(x):
        down, right, angle = (4 * torch.rand(3, generator=random) - 2).tolist()
        moved[i] = picture.roll((round(down), round(right)), (1, 2))
        matrix = cv2.getRotationMatrix2D((shape[2] / 2, shape[1] / 2), 2 * angle, 1)
        turn = cv2.warpAffine(picture.permute(1, 2, 0).numpy(), matrix, shape[:0:-1], borderMode=cv2.BORDER_REPLICATE)
        turned[i] = torch.from_numpy(turn).permute(2, 0, 1)
    universal = 0.06 * torch.randn(shape, generator=random).sign()
    y = torch.cat((x + 0.05 * torch.randn(x.shape, generator=random), x + universal, moved, turned, 0.2 + 0.6 * x))
    return x.repeat(len(KINDS), 1, 1, 1), (y.clamp(0, 1) * 255).round() / 255


def pass_by_opencv(a: Tensor, b: Tensor) -> list[float]:
    """The reference: a homography by OpenCV, SSIM by scikit-image; repeats the edge outside, keeps `b` where OpenCV gives up."""
    scores = []
    rule = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-3)
    for p, q in zip(a.permute(0, 2, 3, 1).numpy(), b.permute(0, 2, 3, 1).numpy(), strict=True):
        original, changed = (255 * cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (p, q))
        try:
            _, warp = cv2.findTransformECC(original, changed, np.eye(3, dtype="f4"), cv2.MOTION_HOMOGRAPHY, rule)
        except cv2.error:
            warp = np.eye(3, dtype="f4")
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        aligned = cv2.warpPerspective(q, warp, q.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        scores.append(structural_similarity(p, aligned, **WANG | {"channel_axis": 2}))
    return scores


def is_opencvs(a: Tensor, b: Tensor) -> None:
    """In float64 for every pair; in float32 where an alignment doesn't swing to and fro until the last digit decides."""
    wanted = pass_by_opencv(a, b)
    np.testing.assert_allclose(pass_score(a.double(), b.double()).numpy(), wanted, rtol=0, atol=1e-3)
    assert np.quantile(np.abs(pass_score(a, b).numpy() - wanted), 0.98) < 3e-4


@pytest.mark.parametrize("pair", [noise, faces])
def test_psnr_is_scikit_images(pair: Callable[[], Pair]) -> None:
    a, b = pair()
    wanted = [peak_signal_noise_ratio(p.numpy(), q.numpy(), data_range=1) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b).numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("pair", [noise, faces])
def test_ssim_is_wangs(pair: Callable[[], Pair]) -> None:
    a, b = pair()
    wanted = [structural_similarity(p.double().numpy(), q.double().numpy(), **WANG) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b).numpy(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("style", synthetic.STYLES)
def test_pass_is_opencvs(style: str) -> None:
    is_opencvs(*perturbed(synthetic.load(style, 64, seed=2, subjects=32, per_subject=1).images))


@pytest.mark.skipif(not DATA, reason="DFT_DATA names no folder with the real data sets")
def test_pass_of_real_faces_is_opencvs() -> None:
    a, b = perturbed(load_dataset("muct", DATA).images[::117])
    assert len(a) >= 128
    is_opencvs(a, b)


def test_pass_of_other_sizes_is_opencvs() -> None:
    a, b = (torch.nn.functional.interpolate(x, (72, 50), mode="bilinear") for x in faces())
    np.testing.assert_allclose(pass_score(a, b).numpy(), pass_by_opencv(a, b), rtol=0, atol=2e-3)


def test_pass_without_a_homography_is_ssim() -> None:
    """Flat pictures on either side, negatives, stripes that don't tell where they are along themselves, and no number."""
    x = faces()[0]
    stripes = (torch.arange(64) / 9).sin().expand_as(x[0]) / 2 + 0.5
    a = torch.stack((x[0], torch.full_like(x[0], 0.3), x[0], x[1], stripes))
    b = torch.stack((torch.full_like(x[0], 0.3), x[0], torch.ones_like(x[0]), 1 - x[1], stripes.roll(1, 2)))
    torch.testing.assert_close(pass_score(a, b), ssim(a, b))
    np.testing.assert_allclose(pass_score(a[:4], b[:4]).numpy(), pass_by_opencv(a[:4], b[:4]), rtol=0, atol=1e-4)
    assert pass_score(a, b * math.nan).isnan().all()


def test_pass_forgives_shifts() -> None:
    x = faces()[0]
    for shift in ((1, 0), (0, -1), (1, 1)):
        moved = x.roll(shift, (2, 3))
        assert (pass_score(x, moved) > ssim(x, moved) + 0.01).all()
        assert (pass_score(x, moved) > 0.9).all()


def test_pass_of_a_pair_doesnt_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = faces()
    wanted = pass_score(a, b)
    for pixels in (1, 3 * 64 * 64):
        monkeypatch.setattr(similarity, "CHUNK", pixels)
        torch.testing.assert_close(pass_score(a, b), wanted, rtol=0, atol=1e-3)


def test_pass_of_grey_levels_is_that_of_fractions() -> None:
    a, b = ((255 * x).to(torch.uint8) for x in faces())
    assert torch.equal(pass_score(a, b), pass_score(a / 255, b / 255))


class Spy(TorchFunctionMode):
    """Within it, which devices tensors are sent to, while those made without a word about it land on `meta`, where no sum is."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[object] = []
        self.meta = torch.device("meta")

    def __enter__(self) -> "Spy":
        self.meta.__enter__()
        return cast(Spy, super().__enter__())

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.meta.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function in (Tensor.cpu, Tensor.cuda):
            self.sent.append(function)
        elif function is Tensor.to:
            self.sent += [x for x in (*given[1:], *(named or {}).values()) if isinstance(x, torch.device | str)]
        return function(*given, **(named or {}))


@pytest.mark.parametrize("measure", [psnr, ssim, pass_score])
def test_a_measure_stays_on_the_device_of_its_images(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    pair = faces()
    with Spy() as spy:
        found = measure(*pair)
    assert spy.sent == []
    assert found.device == pair[0].device


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_a_measure_works_where_there_are_no_numbers(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = (x.to("meta") for x in faces())
    assert measure(a, b).device.type == "meta"


def test_pass_refuses_other_shapes() -> None:
    a, b = faces()
    for p, q in ((a, b[:2]), (a, b[:1]), (a[:, :1], b[:, :1])):
        with pytest.raises(ValueError, match="n x 3 x H x W"):
            pass_score(p, q)


def test_equal_pictures() -> None:
    a, _ = faces()
    assert psnr(a, a).tolist() == [math.inf] * 4
    np.testing.assert_allclose(ssim(a, a).numpy(), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pass_score(a, a).numpy(), 1, rtol=0, atol=1e-6)


def test_no_pictures() -> None:
    nothing = torch.empty(0, 3, 64, 64)
    assert [len(measure(nothing, nothing)) for measure in (psnr, ssim, pass_score)] == [0, 0, 0]


def test_psnr_and_ssim_are_symmetric() -> None:
    a, b = faces()
    torch.testing.assert_close(psnr(a, b), psnr(b, a))
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
