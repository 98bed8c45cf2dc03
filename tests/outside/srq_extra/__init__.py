"""A package beside srq that has a method and a network for it."""

from sr_quant_cli import methods, networks
from tests.outside.srq_extra.rlfn import RLFN, RLFNConfig
from tests.outside.srq_extra.tqt import TQT, TQTConfig


def register() -> None:
    """Make both known to srq in this process."""
    methods.register(TQT, TQTConfig)
    networks.register(RLFN, RLFNConfig)
