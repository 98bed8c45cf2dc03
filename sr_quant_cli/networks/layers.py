"""Layers that several networks share."""

from torch import Tensor, nn


class Leaf(nn.Module):
    """A module that is taken as a whole where a network is traced for its linear layers."""


class Denormalize(Leaf):
    """Back to 0..1 from the values that a network works on: ``x / scale + mean`` of each channel.

    Parameters
    ----------
    scale
        Range of the network's values.
    mean
        ``[C, 1, 1]``, 0..1: what was subtracted from the input.

    Examples
    --------
    >>> import torch
    >>> Denormalize(255.0, torch.full((1, 1, 1), 0.5))(torch.tensor([[[51.0]]])).item()
    0.699999988079071
    """

    mean: Tensor

    def __init__(self, scale: float, mean: Tensor) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` of any floating type -> float32, same shape."""
        return x.float() / self.scale + self.mean


class Crop(Leaf):
    """Cut an enlarged picture to the size that the LR picture had before it was padded.

    >>> import torch
    >>> Crop(2)(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 5, 7)).shape
    torch.Size([1, 3, 10, 14])
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, lr: Tensor) -> Tensor:
        """``[N, C, sH', sW']`` and ``[N, C, H, W]`` -> ``[N, C, sH, sW]``."""
        return x[:, :, : self.scale * lr.shape[2], : self.scale * lr.shape[3]]
