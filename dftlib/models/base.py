"""What every backbone promises."""

from torch import Tensor, nn

from dftlib.datasets.align import PADDING


class Backbone(nn.Module):
    """Float pictures n x 3 x `size` x `size` in [0, 1] -> features n x `features`.

    `padding`: around an aligned face, as a share of the average face's size: what the backbone was trained with.
    """

    features: int
    size: int
    padding: float = PADDING
    mean: Tensor
