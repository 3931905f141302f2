"""A classifier with gradients, as the library sees it: images in, scores or logits out."""

import copy
import warnings
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dftlib.errors import DataError
from dftlib.images import Pictures, batches, require_range, to_float

SEVERAL = 8  # images whose answers tell a probability from a logit


class TorchClassifier:
    """A torch network with frozen weights: `scores` as the network computes, `logits` in `dtype` and differentiable.

    net:      any network that takes float images n x C x H x W in [0, 1] (its normalisation inside) to logits n x classes, or
              to one logit an image (n, or n x 1), that of class 1: then class 0 has the logit 0; or to an object or a
              dictionary whose `logits` are such. It gets images in the type of its own weights, and is copied: what is frozen,
              set to evaluation, moved to `device` and kept channels-last is the copy, `self.net`
    device:   None: where the network is
    dtype:    of `logits`, which a fit takes gradients of; what is reported is always of the network as it is. Of a float32
              network with a part `body` that part is cast, once (it must cast its input, as `models.base.Backbone` does); any
              other float32 network runs under autocast, which casts its weights at every call; others stay as they are
    in_place: takes the network itself, not a copy: for one that has no other user, and so saves the memory
    Raises `DataError` for TorchScript.
    """

    def __init__(
        self, net: nn.Module, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32, in_place: bool = False
    ) -> None:
        floats = [t for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
        self.device = torch.device(device or (floats[0].device if floats else "cpu"))
        if isinstance(net, torch.jit.ScriptModule):
            raise DataError(
                "A TorchScript module can't be frozen: give the network that it was made of, or ask it as a function, by "
                "load_classifier('module:function')."
            )
        net = (net if in_place else copy.deepcopy(net)).eval().requires_grad_(False)
        self.net: nn.Module = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        self._takes = floats[0].dtype if floats else torch.float32
        self._fast, cast = self.net, self._takes == torch.float32 != dtype
        self._autocast = cast and not isinstance(getattr(net, "body", None), nn.Module)
        if cast and not self._autocast:
            self._fast = copy.deepcopy(self.net)
            self._fast.get_submodule("body").to(dtype)

    def logits(self, images: Tensor) -> Tensor:
        """Float images n x C x H x W in [0, 1] -> float32 logits n x classes, differentiable to the images alone."""
        with torch.autocast(self.device.type, self.dtype) if self._autocast else nullcontext():
            return self._answer(self._fast, images)

    @torch.inference_mode()
    def scores(self, images: Pictures) -> Tensor:
        """Images n x C x H x W, uint8 0 to 255 or float in [0, 1] -> float32 n x classes, each row sums to 1, on the CPU.

        Raises `DataError` for float images outside [0, 1] and for answers that are no numbers. Warns where one output an image
        looks like a probability: of a logit, 0 is the boundary.
        """
        require_range(images)
        given = (to_float(batch, self.device) for batch in (batches(images, self.device) if len(images) else [images]))
        logits = torch.cat([self._answer(self.net, x).cpu() for x in given])
        scores = logits.softmax(1)
        if not scores.isfinite().all():
            raise DataError("The classifier answered with scores that are not numbers: check its weights and its input range.")
        if len(logits) >= SEVERAL and logits.shape[1] == 2 and not logits[:, 0].any() and logits.min() >= 0 and logits.max() <= 1:
            warnings.warn(
                "The network's one output lies between 0 and 1 for all of these images and is taken for a logit, so all are of "
                "class 1: if it is a probability, leave out the sigmoid at the network's end.",
                stacklevel=2,
            )
        return scores

    def _answer(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits n x classes of a network, float32."""
        out = net(images.to(self._takes))
        out = out.get("logits") if isinstance(out, dict) else getattr(out, "logits", out)
        if not isinstance(out, Tensor) or out.numel() != len(images) * (out.shape[1] if out.ndim > 1 else 1):
            shape = f"{tuple(out.shape)} for {len(images)} images" if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise DataError(f"The network answers with {shape}: wrap it so that it gives logits n x classes, or n.")
        logits = out.float().reshape(len(images), out.shape[1] if out.ndim > 1 else 1)
        return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
