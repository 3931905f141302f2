"""The card of a perturbation: what it was fitted on, for whom, and what it does, from its `about`; what isn't known isn't said.

Of `about` the card reads, where they are there (accuracies in percent, JSON-able):

    fitted_on    images, per_class, mean, std (`fitted_on`); classes: their names
    data         name, split, content (a digest of images, labels and splits), licence
    classifier   who answered, or its network and a digest of its weights
    psnr         decibels that N leaves on average
    aligned      where they are faces in one place (`datasets.align.face`), the padding around each, a share of its size
    resized      whether the images were whole pictures of any size, resized: then N may be stretched to another's
    validation   `Comparison.evidence` of the images that decided, or what is known of it; `test` that of test images
    recommended  with `why_not`, a sentence
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dftlib.images import Pictures, batches, to_float
from dftlib.metrics import similarity

SEEN = 512  # images whose levels are taken for those of all
# Pictures, FEW or more, are far from those of a fit where a channel's mean is off by more than FAR of its deviation there, or its
# deviation by more than the factor SPREAD. Measured on LFW, CelebA, MUCT and the drawn sets, 500 times 50 test pictures: those of
# the set itself are off by 0.39 and 1.20 at most, those of a set with other light or camera by 0.49 and more 19 times in 20 (LFW
# and CelebA, both from the web, can't be told apart so).
FEW, FAR, SPREAD = 50, 0.45, 1.25
UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # `about` is open to anyone, who may mean other things


def fitted_on(images: Pictures, labels: Tensor) -> dict[str, Any]:
    """Images n x C x H x W and labels n: how many, of each class, and `levels` of up to `SEEN` of them, evenly picked."""
    some = np.linspace(0, len(images) - 1, min(len(images), SEEN)).astype(int)
    return {"images": len(images), "per_class": labels.bincount().tolist(), **levels(images[some])}


def levels(images: Pictures) -> dict[str, list[float]]:
    """`mean` and `std` of each channel of images n x C x H x W, in [0, 1]."""
    floats = (to_float(batch, torch.device("cpu")).double() for batch in batches(images))
    parts = [torch.stack([x.mean((2, 3)).sum(0), x.square().mean((2, 3)).sum(0)]) for x in floats]
    mean, square = torch.stack(parts).sum(0) / len(images)
    return {"mean": mean.tolist(), "std": (square - mean**2).clamp_min(0).sqrt().tolist()}


def weights(net: nn.Module) -> str:
    """The network's class, and the start of the SHA-256 of its parameters and buffers."""
    digest = hashlib.sha256()
    for tensor in (*net.parameters(), *net.buffers()):
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{type(net).__name__}, SHA-256 of its weights {digest.hexdigest()[:16]}"


def distortion(images: Pictures, after: Pictures) -> dict[str, float]:
    """`psnr`, the mean over images n x C x H x W; nothing where one of them didn't change, and it would be infinite."""
    before, changed = (to_float(given, torch.device("cpu")) for given in (images, after))
    mean = float(similarity.psnr(before, changed).mean())
    return {"psnr": mean} if math.isfinite(mean) else {}


def shares(images: int, before: float, after: float) -> dict[str, float]:
    """Of so many validation images the shares, in [0, 1], that are right before and after, as `Comparison.row` says them."""
    from dftlib.metrics.classification import in_percent  # scipy's statistics take long to import: not for who only applies N

    first, last = (np.arange(images) < round(share * images) for share in (before, after))
    return {"images": images, **in_percent("before", first), **in_percent("after", last)}


def head(about: Mapping[str, Any]) -> list[str]:
    """The first lines: whether N is recommended, what it was fitted on, and for which classifier."""
    lines, fitted = [], ""
    with suppress(*UNREADABLE):
        if "recommended" in about:
            why = f"Not recommended: leave the images as they are. {about.get('why_not', '')}".strip()
            lines.append("Recommended: add it to the images." if about["recommended"] else why)
        elif isinstance(about.get("validation"), Mapping):
            lines.append("Not judged: what `compare` says of images that had no part in the fit tells whether to add it.")
        if on := about.get("fitted_on"):
            names = on.get("classes") or [f"class {k}" for k in range(len(on["per_class"]))]
            each = ", ".join(f"{count:,} of {name}" for name, count in zip(names, on["per_class"], strict=False))
            fitted += f" {on['images']:,} images ({each})"
        if data := about.get("data"):
            fitted += f" of '{data['name']}'" + "".join(f", {key} {data[key]}" for key in ("split", "content") if key in data)
        if fitted:
            lines.append(f"Fitted on:{fitted}.")
        if isinstance(padding := about.get("aligned"), float):
            lines.append(f"Added to: faces that dlib finds and aligns by five landmarks, with {100 * padding:.0f} % around.")
        if who := about.get("classifier"):
            lines.append(f"For: {who}.")
        return lines
    return []


def far(seen: Sequence[Mapping[str, list[float]]], about: Mapping[str, Any]) -> str:
    """Of the `levels` of each of some pictures: a sentence where they are far from those the fit had; else empty."""
    with suppress(*UNREADABLE):
        if len(seen) < FEW:
            return ""
        mean, std = (np.array([one[name] for one in seen]) for name in ("mean", "std"))
        own, wanted = {"mean": mean.mean(0)}, {name: np.array(about["fitted_on"][name]) for name in ("mean", "std")}
        own["std"] = np.sqrt((std**2 + mean**2).mean(0) - own["mean"] ** 2)
        apart = np.abs(own["mean"] - wanted["mean"]) / np.maximum(wanted["std"], 1 / 255)
        ratio = np.maximum(own["std"], 1 / 255) / np.maximum(wanted["std"], 1 / 255)
        if apart.max() > FAR or np.maximum(ratio, 1 / ratio).max() > SPREAD:
            pairs = (zip(255 * side["mean"], 255 * side["std"], strict=True) for side in (own, wanted))
            there, fitted = (", ".join(f"{m:.0f} ± {s:.0f}" for m, s in pair) for pair in pairs)
            return (
                f"These pictures are far from those that the perturbation was fitted on (grey levels of their channels: {there}; "
                f"there: {fitted}), and it may do harm: try it on some whose class is known first."
            )
    return ""


def card(shape: tuple[int, ...], box: str, about: Mapping[str, Any]) -> str:
    """Markdown: `head`, then a line a fact."""
    lines = [*head(about), f"Shape: {' x '.join(map(str, shape))} (C x H x W), added by the box map '{box}'."]
    with suppress(*UNREADABLE):
        if "psnr" in about:
            lines.append(f"It leaves {about['psnr']:.1f} dB (PSNR, mean).")
        classes = {f"class {k}": name for k, name in enumerate(about.get("fitted_on", {}).get("classes", []))}
        for name, what in (("validation", "validation images, which decided"), ("test", "test images, which had no part in it")):
            if said := about.get(name):
                lines.append(f"Of {said['images']:,} {what}: {_change(said)}")
                if "remedy" in said:
                    lines.append(f"The best simple remedy there, {said['remedy']}: {said['remedy_accuracy']:.1f} % right.")
                for group, own in said.get("groups", {}).items():
                    lines.append(f"Of the {own['images']:,} of {classes.get(group, group)}: {_change(own)}")
        if licence := about.get("data", {}).get("licence"):
            lines.append(f"Licence of the data: {licence}")
    return "\n".join(["# Perturbation", "", *(f"- {' '.join(line.split())}" for line in lines), ""])


def _change(said: Mapping[str, Any]) -> str:
    before, after = (f"{said[s]:.1f} % ({said[f'{s}_lo']:.1f} to {said[f'{s}_hi']:.1f})" for s in ("before", "after"))
    rise = ", {rise:+.1f} points ({rise_lo:+.1f} to {rise_hi:+.1f})".format(**said) if "rise" in said else ""
    return f"right before {before}, with N {after}{rise}."
