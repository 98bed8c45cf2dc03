"""What a training step minimizes."""

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.schema import TrainSection


class Objective(nn.Module):
    """A network and the losses on its output; the unit that is trained, on one process or many.

    Losses are in float32 on values 0..255, whatever autocast does to the network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Named scalar losses, to be summed: LR ``[N, 3, h, w]``, HR ``[N, 3, sh, sw]``, 0..1."""


class PixelLoss(Objective):
    """Mean absolute or squared difference to HR."""

    def __init__(self, network: Network, train: TrainSection) -> None:
        super().__init__(network)
        self._loss = F.l1_loss if train.loss == "l1" else F.mse_loss

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """The loss under the name ``pixel``."""
        return {"pixel": self._loss(self.network(lr).float() * 255, hr * 255)}
