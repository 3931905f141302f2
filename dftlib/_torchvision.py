"""torchvision, also where its compiled operators don't load.

A torchvision wheel built beside another build of torch (CUDA beside CPU) fails at import because the operators `nms` and
`qnms` that it decorates are not there. Declaring their schemas is enough for models, transforms and utils; `torchvision.io`
and `torchvision.ops` stay unusable, and the kit uses neither.
"""

import importlib

import torch

try:
    importlib.import_module("torchvision")
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")  # kept: one that is collected takes its schemas with it
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import models, utils

__all__ = ["models", "utils"]
