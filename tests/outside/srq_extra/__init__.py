"""A package beside srq that has a method and a network for it."""

from sr_quant_cli import methods, networks
from tests.outside.srq_extra.lsq import LSQ, LSQConfig
from tests.outside.srq_extra.rlfn import RLFN, RLFNConfig


def register() -> None:
    """Make both known to srq in this process."""
    methods.register(LSQ, LSQConfig)
    networks.register(RLFN, RLFNConfig)
