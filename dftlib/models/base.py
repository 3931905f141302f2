"""What every backbone promises."""

from torch import Tensor, nn


class Backbone(nn.Module):
    """Float pictures n x 3 x `size` x `size` in [0, 1] -> features n x `features`."""

    features: int
    size: int
    mean: Tensor
