"""Drawn faces with seven known attributes, in three styles: data sets that need no download and no permission.

A subject fixes gender, face shape, skin, hair, brows and glasses; a picture adds smile, pose, light, lipstick and
background. Styles differ mostly in light and colour, so that a classifier trained on one loses accuracy on another.

`Attractive` is a composite and no opinion: 1.2 youth + 0.6 smooth skin + 0.4 symmetry + 0.5 full lips, each of unit
spread, + 1.5 with make-up - 1.2 with glasses + normal noise of spread 0.5; present above the style's `taste`.
`Bushy Eyebrows` and `Pale Skin` are thresholds on the drawn thickness and the drawn melanin.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dftlib import artefacts, seeds
from dftlib.datasets import align
from dftlib.datasets.base import ATTRIBUTES, SPLITS, FaceDataset, Faces

VERSION = 1  # of what is drawn: raised with every change of a face
CHUNK = 16  # faces painted at once, each with noise of its own (so raise VERSION with it): more fall out of a processor's cache


@dataclass(frozen=True)
class Style:
    """What sets one face set apart; colours and offsets are on the 0 to 1 scale of a picture."""

    male: float  # share of subjects
    smiling: float  # share of pictures
    glasses: float  # share of subjects
    pale: float  # exponent of the melanin's distribution: above 1 more pale people
    taste: float  # threshold of the attractiveness score
    light: tuple[float, float]  # mean direction of the light: right, down
    light_jitter: float
    contrast: tuple[float, float]  # ambient, diffuse
    gain: tuple[float, float, float]  # white balance
    offset: tuple[float, float, float]  # haze
    gradient: tuple[float, float]  # brightness added from left to right, from top to bottom
    gamma: float
    pose: float  # spread of roll, yaw, scale and shift, in tenths
    blur: float  # standard deviation in 1/64 of the picture
    noise: float
    scene: str  # 'plain' | 'outdoor' | 'indoor'


STYLES: dict[str, Style] = {
    "studio": Style(
        male=0.45, smiling=0.55, glasses=0.18, pale=1.3, taste=0.5,
        light=(-0.35, -0.4), light_jitter=0.25, contrast=(0.5, 0.62), gain=(1.0, 0.98, 0.96), offset=(0.02, 0.02, 0.03),
        gradient=(0.0, 0.0), gamma=0.95, pose=0.3, blur=0.35, noise=0.008, scene="plain",
    ),
    "press": Style(
        male=0.65, smiling=0.45, glasses=0.25, pale=1.0, taste=0.4,
        light=(0.6, -0.4), light_jitter=0.25, contrast=(0.36, 0.72), gain=(1.14, 0.98, 0.74), offset=(0.09, 0.03, -0.04),
        gradient=(0.28, -0.14), gamma=1.1, pose=0.42, blur=0.5, noise=0.02, scene="outdoor",
    ),
    "webcam": Style(
        male=0.5, smiling=0.3, glasses=0.35, pale=1.15, taste=0.3,
        light=(0.0, 0.45), light_jitter=0.3, contrast=(0.58, 0.4), gain=(0.8, 0.96, 1.06), offset=(0.0, 0.08, 0.16),
        gradient=(-0.26, 0.18), gamma=1.1, pose=0.4, blur=0.9, noise=0.035, scene="indoor",
    ),
}  # fmt: skip

SKINS = ((0.97, 0.85, 0.78), (0.90, 0.70, 0.57), (0.68, 0.46, 0.34), (0.36, 0.23, 0.17))
HAIRS = ((0.07, 0.06, 0.06), (0.20, 0.12, 0.08), (0.38, 0.23, 0.13), (0.58, 0.27, 0.12), (0.82, 0.66, 0.40))
IRISES = ((0.20, 0.11, 0.06), (0.36, 0.24, 0.12), (0.28, 0.42, 0.28), (0.28, 0.46, 0.66))
LIPSTICKS = ((0.80, 0.06, 0.12), (0.70, 0.04, 0.32), (0.95, 0.20, 0.44), (0.92, 0.10, 0.10))
FRAMES = ((0.05, 0.05, 0.06), (0.28, 0.14, 0.07), (0.45, 0.08, 0.10), (0.16, 0.18, 0.30))
GOLD = (0.88, 0.80, 0.60)


def _ramp(table: tuple[tuple[float, ...], ...], at: Tensor) -> Tensor:
    """Colours (n x 3) read off an evenly spaced table at positions 0 to 1 (n)."""
    stops, x = torch.tensor(table), at.clamp(0, 1) * (len(table) - 1)
    low = x.long().clamp(max=len(table) - 2)
    return stops[low].lerp(stops[low + 1], (x - low)[:, None])


def _latents(s: Style, subjects: int, per_subject: int, g: torch.Generator) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Everything a picture is drawn from, N x 1 x 1 a number and N x 3 x 1 x 1 a colour, and its labels."""
    n, total = subjects, subjects * per_subject
    uniform, normal = partial(torch.rand, generator=g), partial(torch.randn, generator=g)
    male = uniform(n) < s.male
    # Looks scatter around the gender and overlap, so that no single feature and no classifier tells it for certain.
    looks = torch.where(male, 1.0, -1.0) + 0.35 * normal(n)
    youth, rough, skew, lips = uniform(n), uniform(n), normal(n), normal(n)
    melanin = uniform(n) ** s.pale
    brow = 0.3 * looks + 0.7 * normal(n)
    glasses, makeup = uniform(n) < s.glasses, uniform(n) < torch.where(male, 0.02, 0.62)
    score = 4.2 * (youth - 0.5) + 2.1 * (0.5 - rough) + 0.66 * (0.8 - skew.abs()) + 0.5 * lips + 0.5 * normal(n)
    score += 1.5 * makeup - 1.2 * glasses
    long_hair = uniform(n) < torch.where(male, 0.12, 0.72)
    grey = ((0.4 - youth) * 4 * uniform(n)).clamp(0, 1)
    hair = _ramp(HAIRS, uniform(n) ** 1.3 * (1.15 - melanin) + 0.05 * normal(n))
    beard = torch.where(male & (uniform(n) < 0.45), 0.15 + 0.75 * uniform(n), 0.0)
    skin = _ramp(SKINS, melanin) * (1 + torch.tensor([0.012, -0.006, -0.02]) * normal(n)[:, None])
    # Dark frames would vanish on dark skin.
    frame = torch.where(melanin[:, None] > 0.55, torch.tensor(GOLD), _ramp(FRAMES, uniform(n) * (1 - melanin)))
    person = {
        "male": male, "looks": looks, "old": 1 - youth, "rough": rough, "skew": 0.035 * skew, "melanin": melanin,
        "brow": brow, "attractive": score > s.taste, "skin": skin,
        "hair": hair.lerp(torch.full((3,), 0.72), grey[:, None]), "iris": _ramp(IRISES, uniform(n) * (1.2 - melanin)),
        "frame": frame, "glasses": glasses, "round": 2 + 3 * uniform(n),
        "makeup": makeup, "lipstick": _ramp(LIPSTICKS, uniform(n)),
        "long": long_hair, "fringe": (uniform(n) < 0.3) & long_hair,
        "bald": male & (uniform(n) < 0.16), "beard": beard, "moustache": beard * (uniform(n) < 0.8),
        "line": 0.03 * normal(n), "part": 0.15 * normal(n), "wave": uniform(n), "cloth": uniform(n, 3) * 0.7,
        "width": 0.655 + 0.018 * looks + 0.022 * normal(n), "jaw": 2.25 + 0.28 * looks + 0.2 * normal(n),
        "taper": 0.22 - 0.06 * looks + 0.05 * normal(n), "chin": 0.96 + 0.025 * looks + 0.03 * normal(n),
        "eyes": 0.175 - 0.006 * looks + 0.009 * normal(n), "apart": 0.315 + 0.014 * normal(n),
        "open": 0.092 - 0.007 * looks + 0.009 * normal(n), "tilt": 0.10 - 0.04 * looks + 0.08 * normal(n),
        "arch": 0.045 - 0.012 * looks + 0.012 * normal(n), "above": 0.195 - 0.018 * looks + 0.014 * normal(n),
        "nose": 0.105 + 0.010 * looks + 0.013 * normal(n), "length": 0.25 + 0.012 * looks + 0.02 * normal(n),
        "lips": (0.076 - 0.007 * looks + 0.013 * lips).clamp(min=0.04), "mouth": 0.24 + 0.02 * normal(n),
    }  # fmt: skip
    p = {k: v.float().repeat_interleave(per_subject, 0) for k, v in person.items()}
    happy, j = uniform(total) < s.smiling, s.pose / 10
    wears = (p["makeup"] > 0) ^ (uniform(total) < 0.05)
    p |= {
        # Shy smiles and resting smiles meet in the middle.
        "smile": torch.where(happy, 0.45 + 0.55 * uniform(total), 0.45 * uniform(total) - 0.15),
        "teeth": (uniform(total) < 0.85) & happy, "wears": wears,
        "roll": 1.6 * j * normal(total), "yaw": (4 * j * normal(total)).clamp(-0.5, 0.5), "pitch": 0.4 * j * normal(total),
        "scale": 1 + 0.7 * j * normal(total), "right": 0.5 * j * normal(total), "down": 0.5 * j * normal(total),
        "gaze": 0.2 * normal(total),
        "lx": s.light[0] + s.light_jitter * normal(total), "ly": s.light[1] + s.light_jitter * normal(total),
        "exposure": 1 + 0.09 * normal(total),
        "cast": torch.tensor(s.gain) * (1 + 0.03 * normal(total, 3)),
    }  # fmt: skip
    seen = (p["male"], happy, p["brow"] > 0.45, p["melanin"] < 0.27, p["attractive"], wears, p["glasses"])
    labels = pd.DataFrame({a: v.numpy().astype(np.int8) for a, v in zip(ATTRIBUTES, seen, strict=True)})
    return {k: v.float().view(*v.shape, 1, 1) for k, v in p.items()}, labels


def _inside(distance: Tensor, edge: float) -> Tensor:
    """Mask 0 to 1 of a signed distance (negative inside) whose border is `edge` wide."""
    return (0.5 - distance / edge).clamp(0, 1)


def _bump(x: Tensor, y: Tensor, sx: Tensor | float, sy: Tensor | float) -> Tensor:
    # No less than e^-60, which no pixel shows: with subnormal numbers some processors take many times as long.
    return torch.exp((-((x / sx) ** 2) - (y / sy) ** 2).clamp_(min=-60))


def _blobs(b: int, channels: int, cells: int, side: int, g: torch.Generator, mode: str = "bicubic") -> Tensor:
    """Smooth noise, b x channels x side x side, of about unit spread and `cells` blobs a side."""
    return F.interpolate(torch.randn(b, channels, cells, cells, generator=g), (side, side), mode=mode)


def _scene(kind: str, b: int, side: int, y: Tensor, g: torch.Generator) -> Tensor:
    """Backgrounds, b x 3 x side x side, 0 to 1."""
    if kind == "plain":
        tone = 0.45 + 0.3 * torch.rand(b, 1, 1, 1, generator=g) + 0.04 * torch.randn(b, 3, 1, 1, generator=g)
        return tone - 0.12 * y[:, None]
    if kind == "outdoor":
        above, below = torch.tensor([[0.62, 0.74, 0.86], [0.36, 0.46, 0.24]])[..., None, None]
        sky = above.lerp(below, (0.5 + y[:, None]).clamp(0, 1))
        return sky + 0.16 * _blobs(b, 1, 7, side, g) + 0.07 * _blobs(b, 3, 5, side, g)
    return 0.36 + 0.08 * _blobs(b, 1, 5, side, g, "nearest") + 0.03 * _blobs(b, 3, 3, side, g)


def _render(p: dict[str, Tensor], s: Style, size: int, g: torch.Generator) -> Tensor:
    """Paints b faces, uint8 b x 3 x size x size.

    Coordinates: x right and y down, -1 to 1 over the picture; before pose the eyes lie at y = -0.2, the mouth at 0.5.
    """
    b, pixel = len(p["male"]), 2 / size
    edge = 1.5 * pixel
    line = (torch.arange(size) + 0.5) * pixel - 1
    gy, gx = line[None, :, None], line[None, None, :]
    cos, sin = torch.cos(p["roll"]) / p["scale"], torch.sin(p["roll"]) / p["scale"]
    u = cos * (gx - p["right"]) + sin * (gy - p["down"])
    v = cos * (gy - p["down"]) - sin * (gx - p["right"])
    # Features stand before the head's axis: turning shifts them and squeezes the far half.
    fx = u - 0.22 * p["yaw"]
    fx = fx * (1 + 0.25 * p["yaw"] * fx)
    fy = v - p["pitch"] + p["skew"] * fx
    sx = fx.abs()
    smile, old = p["smile"], p["old"]
    grin = smile.clamp(min=0)
    canvas = _scene(s.scene, b, size, gy, g).expand(b, 3, size, size).contiguous()

    def paint(mask: Tensor, colour: Tensor | float) -> None:
        canvas.lerp_(torch.as_tensor(colour), mask[:, None])

    # Outline of the head: an ellipse above, a squarer and tapering one below.
    y = v + 0.12
    low = y.clamp(min=0)
    hx = (u / (p["width"] * (1 - p["taper"] * low.square()))).abs()
    upper = (hx.square() + (y / 0.84).square()).sqrt()
    lower = (hx.pow(p["jaw"]) + (low / p["chin"]).pow(p["jaw"])).pow(1 / p["jaw"])
    head_d = (torch.where(y < 0, upper, lower) - 1) * 0.65
    head = _inside(head_d, edge)
    comb = u + 0.3 * p["wave"] * torch.sin(2.2 * v + 6 * p["wave"])
    strands = torch.sin(29 * comb + 20 * p["part"]) * torch.sin(11 * comb + 3 * v)
    hair = p["hair"] * (1 + 0.25 * strands[:, None])

    # Behind the head: hair, neck and shoulders.
    fall = p["width"] + 0.17 + 0.03 * torch.sin(7 * v + 6 * p["wave"])
    long_d = torch.where(v < -0.2, ((u / fall).square() + ((v + 0.2) / 0.88).square()).sqrt() * 0.7 - 0.7, u.abs() - fall)
    back = _inside(long_d, edge) * p["long"]
    paint(back, hair * 0.75)
    neck = _inside(torch.maximum(u.abs() - p["width"] * 0.62 - 0.05 * p["looks"], 0.4 - v), edge)
    paint(neck, p["skin"] * 0.72)
    body = _inside(0.84 + 0.12 * u.abs() - v, edge)
    paint(body, p["cloth"])
    ex, ey = (u.abs() - p["width"] - 0.02) / 0.10, (v + 0.02) / 0.2
    ear = _inside(((ex.square() + ey.square()).sqrt() - 1) * 0.1, edge) * (1 - 0.85 * p["long"])
    paint(ear, p["skin"] * (0.88 - 0.25 * _bump(ex, ey, 0.5, 0.6)[:, None]))

    # Skin, with blemishes, blush, beard and the marks of age.
    paint(head, p["skin"])
    blemish = p["rough"] * (0.09 * _blobs(b, 1, 22, size, g)[:, 0] + 0.05 * _blobs(b, 1, 9, size, g)[:, 0])
    blush = _bump(sx - 0.38, fy - 0.2, 0.2, 0.16) * (0.5 + 0.5 * grin - 0.2 * p["looks"])
    canvas *= 1 + (head * blemish)[:, None]
    canvas -= torch.tensor([0.0, 0.07, 0.06])[:, None, None] * (head * blush)[:, None]
    mx, my = fx / (p["mouth"] * (1 + 0.38 * grin)), fy - 0.5 + 0.02 * grin
    bowl = (1 - mx.square()).clamp(min=0)
    fold = (sx - 0.17 - 0.45 * (fy - 0.2) * (0.6 + 0.4 * grin)).abs()
    crease = _bump(fold, fy - 0.36, 0.03, 0.17) * (0.4 * old + 0.35 * grin)
    bags = _bump(sx - p["apart"], fy - 0.0, 0.14, 0.035) * (0.05 + 0.45 * old.square())
    forehead = torch.sin(45 * fy).clamp(min=0) * _bump(fx, fy + 0.55, 0.35, 0.11) * 0.6 * (old - 0.4).clamp(min=0)
    crow = _bump(sx - 0.53, fy + 0.2, 0.05, 0.09) * (0.1 * grin + 0.25 * old.square())
    canvas *= (1 - head * (0.6 * crease + bags + forehead + crow))[:, None]
    cheek_line = 0.33 - 0.65 * (sx - 0.2).clamp(min=0)
    chin_hair = _inside(cheek_line - fy + 0.25 * _bump(fx, fy - 0.4, 0.3, 0.2), 0.16)
    lip_hair = _bump(sx - 0.1, fy - 0.40 - 0.1 * sx, 0.16, 0.055)
    paint(head * (p["beard"] * chin_hair).maximum(0.9 * p["moustache"] * lip_hair), hair * 0.9)

    # Mouth: dark gap, teeth, upper lip with its bow, lower lip.
    middle = grin * 0.05 * bowl - (0.022 + 0.055 * smile) * mx.square().clamp(max=2)
    gap = bowl * (0.006 + p["teeth"] * 0.1 * smile)
    top, bottom = my - middle + 0.02 * grin, my - middle + 0.02 * grin - gap
    bow = 1 - 0.3 * _bump(mx, mx, 0.2, 0.4)
    beyond = 4 * (mx.abs() - 1).clamp(min=0)
    lipstick = p["skin"] * torch.tensor([0.86, 0.62, 0.60])[:, None, None]
    lipstick = lipstick.lerp(p["lipstick"], 0.95 * p["wears"][:, None])
    paint(_inside(torch.maximum(-top - p["lips"] * bowl.sqrt() * bow, top) + beyond, edge), lipstick * 0.86)
    paint(_inside(torch.maximum(-bottom, bottom - 1.25 * p["lips"] * bowl.sqrt()) + beyond, edge), lipstick)
    mouth = _inside(torch.maximum(-top, bottom) - 0.010 + beyond, edge)
    paint(mouth, torch.tensor([0.22, 0.07, 0.07])[:, None, None])
    teeth = _inside(torch.maximum(0.004 - top, bottom + 0.016) + beyond, edge) * _inside(mx.abs() - 0.85, 0.2)
    paint(teeth * p["teeth"], 0.93)

    # Eyes: white, iris, pupil, glint, lids; squeezed by a smile.
    x = (sx - p["apart"]) / p["eyes"]
    y = (fy + 0.2) + p["tilt"] * 0.3 * (sx - p["apart"])
    lid = (1 - x.square()).clamp(min=0)
    up, under = -p["open"] * (1 - 0.2 * grin) * lid, p["open"] * (0.75 - 0.35 * grin) * lid
    paint(_bump(x, y + 0.07, 1.1, 0.07) * (0.18 - 0.1 * p["looks"].clamp(-1, 1)) * head, p["skin"] * 0.45)
    eye = _inside(torch.maximum(up - y, y - under) + 0.1 * (x.abs() - 1).clamp(min=0), edge)
    paint(eye, 0.93)
    turned = sx - p["apart"] - (0.03 * p["gaze"] + 0.04 * p["yaw"]) * fx.sign()
    iris_r = (turned.square() + (y + 0.008).square()).sqrt()
    paint(eye * _inside(iris_r - 0.080, edge), p["iris"])
    paint(eye * _inside(iris_r - 0.036, edge), 0.03)
    paint(eye * _bump(turned + 0.025 * fx.sign(), y + 0.035, 0.022, 0.022), 1.0)
    lash = 0.013 - 0.004 * p["looks"]
    paint(_inside((y - up).abs() - lash + 0.3 * (x.abs() - 1.05).clamp(min=0), edge), 0.08)
    paint(0.5 * _inside((y - under).abs() - 0.004 + 0.3 * (x.abs() - 1).clamp(min=0), edge), p["skin"] * 0.4)

    # Brows: thinning outwards, ragged when bushy.
    thick = (0.026 + 0.019 * p["brow"]).clamp(min=0.008)
    bx = (sx - p["apart"] - 0.01) / 0.22
    by = fy + 0.2 + p["above"] - 0.02 * grin + p["arch"] * (1 - (bx - 0.15).square())
    ragged = 0.18 * (p["brow"] - 0.3).clamp(0, 1) * torch.sin(70 * sx + 25 * fy)
    brow_d = by.abs() - thick * (1.15 - 0.45 * bx + ragged) + 0.22 * (bx.abs() - 1).clamp(min=0)
    paint(0.92 * _inside(brow_d, edge), p["hair"] * 0.55)

    # Nose: nostrils here, its body comes from the shading.
    tip = fy - 0.02 - p["length"]
    paint(0.75 * _bump(sx - 0.62 * p["nose"], tip - 0.035, 0.032, 0.02), p["skin"] * 0.25)
    paint(0.35 * _bump(fx, tip - 0.075, p["nose"], 0.03), p["skin"] * 0.4)

    # Hair before the head: cap above a hairline that falls to the temples, curtains when long.
    hairline = -0.68 + p["line"] - 0.03 * p["looks"] + 0.26 * p["fringe"] - 0.05 * old + p["part"] * u
    temples = 0.25 * u.square() + (2.6 - 0.8 * p["fringe"]) * u.pow(4)
    cap_d = (v - hairline - temples - 0.012 * strands).maximum(head_d - 0.085)
    cap = _inside(cap_d, edge) * (1 - p["bald"])
    parted = p["width"] * 0.93 + 0.05 * torch.sin(4 * v + 5 * p["wave"]) - 0.1 * v.square()
    curtain = _inside(torch.maximum(parted - u.abs(), long_d), edge) * p["long"]
    paint(torch.maximum(cap, curtain), hair)

    # Glasses: rims, bridge, temples and a faint glare.
    q = p["round"]
    rim = (((sx - p["apart"]) / 0.235).abs().pow(q) + ((fy + 0.165) / 0.17).abs().pow(q)).pow(1 / q) - 1
    bar = torch.maximum((fy + 0.2).abs() - 0.014, torch.minimum(sx - 0.1, 0.54 - sx))
    bar = torch.maximum(bar, u.abs() - p["width"])
    paint(0.14 * p["glasses"] * _inside(rim * 0.2, edge), 0.9)
    paint(p["glasses"] * _inside(torch.minimum(rim.abs() * 0.2 - 0.017, bar), edge), p["frame"])

    # Shading: a dome with a nose, sockets, cheeks and lips, lit from one side.
    r2 = (u / 0.78).square() + ((v - 0.02) / 1.05).square()
    relief = -0.20 * r2 - 0.10 * r2.square()
    relief += 0.17 * _bump(fx, tip + 0.02, p["nose"] * 1.1, 0.11) + 0.06 * _bump(fx, fy - 0.02, p["nose"] * 0.8, 0.22)
    relief += 0.03 * _bump(sx - p["nose"], tip - 0.01, 0.055, 0.055) + 0.05 * _bump(fx, fy - 0.80, 0.17, 0.11)
    relief += (0.03 + 0.015 * p["looks"]) * _bump(fx, fy + 0.38, 0.45, 0.10)
    relief -= 0.07 * _bump(sx - p["apart"], fy + 0.2, 0.17, 0.12)
    relief += (0.03 + 0.05 * grin) * _bump(sx - 0.36, fy - 0.22, 0.15, 0.13) + 0.04 * _bump(mx, top, 0.8, 0.09)
    dy, dx = torch.gradient(relief, spacing=pixel, dim=(1, 2))
    lz = (1 - p["lx"].square() - p["ly"].square()).clamp(min=0.15).sqrt()
    lit = (lz - dx * p["lx"] - dy * p["ly"]).clamp(min=0) * (1 + dx.square() + dy.square()).rsqrt()
    person = torch.stack((head, cap, back, neck, body, ear, curtain)).amax(0)
    canvas *= (1 + person * (s.contrast[0] + s.contrast[1] * lit - 1))[:, None]
    canvas += (0.25 * s.contrast[1] * head * (1 - cap) * lit.clamp(0.01, 1).pow(14) * (1 - 0.4 * p["rough"]))[:, None]
    return _camera(canvas * p["cast"] * p["exposure"][:, None], s, gx, gy, g)


def _landmarks(p: dict[str, Tensor], size: int) -> Tensor:
    """Where `_render` puts the landmarks of `datasets.align`, N x 5 x 2 in pixels: the way of `fx`, `fy` there, back."""
    apart, eyes = p["apart"], p["eyes"]
    level = torch.full_like(apart, -0.2)
    outer, inner = level - 0.3 * p["tilt"] * eyes, level + 0.3 * p["tilt"] * eyes
    x = torch.cat((apart + eyes, apart - eyes, -apart - eyes, eyes - apart, torch.zeros_like(apart)), 1)[..., 0]
    y = torch.cat((outer, inner, outer, inner, 0.07 + p["length"]), 1)[..., 0]
    v = {name: p[name][..., 0] for name in ("yaw", "pitch", "skew", "roll", "scale", "right", "down")}
    across = 2 * x / (1 + torch.sqrt(1 + v["yaw"] * x)) + 0.22 * v["yaw"]
    down = y + v["pitch"] - v["skew"] * x
    cos, sin = v["scale"] * torch.cos(v["roll"]), v["scale"] * torch.sin(v["roll"])
    places = torch.stack((cos * across - sin * down + v["right"], sin * across + cos * down + v["down"]), 2)
    return (places + 1) * size / 2 - 0.5


def _camera(light: Tensor, s: Style, gx: Tensor, gy: Tensor, g: torch.Generator) -> Tensor:
    """Adds haze, uneven light, tone curve, softness, coarse chroma and noise: b x 3 x size x size to uint8."""
    size = light.shape[-1]
    light = light + torch.tensor(s.offset)[:, None, None] + s.gradient[0] * gx + s.gradient[1] * gy
    picture = _soften(light.clamp_(1e-4, 1).pow_(s.gamma), s.blur * size / 64)
    grey = picture.mean(1, keepdim=True)
    # As JPEG does: colour at half the resolution.
    picture = grey + F.interpolate(F.avg_pool2d(picture - grey, 2, ceil_mode=True), (size, size), mode="bilinear")
    picture += s.noise * torch.randn(picture.shape, generator=g)
    return (picture.clamp_(0, 1) * 255).round_().to(torch.uint8)


def _soften(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of spread `sigma` pixels."""
    reach = int(np.ceil(2.5 * sigma))
    taps = torch.exp(-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), taps, groups=3)
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), taps.transpose(2, 3), groups=3)


class Drawn(NamedTuple):
    """Pictures uint8 N x 3 x size x size, labels (N rows, int8, 0 or 1), landmarks N x 5 x 2 in pixels."""

    pictures: Tensor
    labels: pd.DataFrame
    landmarks: Tensor


def draw(style: str, subjects: int, per_subject: int, size: int = 64, seed: int = 0) -> Drawn:
    """N = subjects × per_subject faces, with their landmarks in the order of `datasets.align`."""
    g = torch.Generator().manual_seed(int(seeds.rng(style, seed).integers(2**62)))
    latents, labels = _latents(STYLES[style], subjects, per_subject, g)
    pictures = torch.empty(subjects * per_subject, 3, size, size, dtype=torch.uint8)
    # Hundreds of small steps: where another process holds a core, a second thread is waited for at each (100 times slower).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i in range(0, len(pictures), CHUNK):
            part = {k: v[i : i + CHUNK] for k, v in latents.items()}
            pictures[i : i + CHUNK] = _render(part, STYLES[style], size, g)
    finally:
        torch.set_num_threads(threads)
    return Drawn(pictures, labels, _landmarks(latents, size))


def load(
    style: str, size: int, seed: int, way: str = "chip", subjects: int = 500, per_subject: int = 6, padding: float = align.PADDING
) -> FaceDataset:
    """The set `style` with 60 % of its people in train, 20 % in val and 20 % in test.

    way: 'chip' (cut around their landmarks, as `datasets.align` does, with this padding), 'crop' or 'none' (as drawn)
    """

    def make() -> dict[str, Tensor]:
        made = draw(style, subjects, per_subject, size, seed)
        return {"pictures": made.pictures, "labels": torch.tensor(made.labels.to_numpy()), "landmarks": made.landmarks.double()}

    def recut(rows: NDArray[np.int64], way: str, **place: float) -> Faces:
        pictures, at, found = drawn["pictures"][rows], points[rows], np.ones(len(rows), bool)
        if way != "chip":  # as drawn: the eyes of all three sets are in one place already, but for pose
            return Faces(pictures.numpy(), align.eyes((at + 0.5) / size), found, recut)
        key = {**arguments, "way": way, "padding": padding, "rows": rows.tolist(), **place}
        made = artefacts.tensors(
            "synthetic", VERSION, key, lambda: {"pictures": align.chips(pictures, at, size, padding, **place)}
        )
        return Faces(made["pictures"].numpy(), align.eyes(align.on_chip(at, size, padding, **place)), found, recut)

    arguments = {"style": (style, asdict(STYLES[style])), "arguments": (size, seed, subjects, per_subject)}
    drawn = artefacts.tensors("synthetic", VERSION, arguments, make)
    points = drawn["landmarks"].numpy()
    labels = pd.DataFrame(drawn["labels"].numpy(), columns=pd.Index(ATTRIBUTES))
    people = np.array([f"{style}-{i:04d}" for i in range(subjects)])
    order = seeds.rng(style, "split", seed).permutation(subjects)
    split = np.array(SPLITS)[np.digitize(order / subjects, [0.6, 0.8])]
    files = np.array([f"{name}-{i}" for name in people for i in range(per_subject)])
    who, split = np.repeat(people, per_subject), np.repeat(split, per_subject)
    faces = recut(np.arange(len(who)), way)
    return FaceDataset(style, faces.images, labels, who, split, files, faces)
