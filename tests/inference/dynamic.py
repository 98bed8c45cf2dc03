"""A small network whose bits follow the picture by a rule that tests know."""

import torch

from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.networks.edsr import EDSR
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import BitProvider, Scales, attach
from sr_quant_cli.quant.plan import Bits
from tests.helpers import tiny_edsr

CANDIDATES = (4, 6, 8)
INPUTS = ("body.0.block_in", "body.0.conv2", "body.1.block_in", "body.1.conv2")


class ByBrightness(BitProvider):
    """4 bits for dark pictures, 6 for medium, 8 for bright ones; 4 for second convolutions."""

    def look(self, picture):
        self.brightness = picture.mean((1, 2, 3))

    def choose(self, layer, x):
        index = (self.brightness > 1 / 3).long() + (self.brightness > 2 / 3).long()
        return self.of_index(index * (not layer.endswith("conv2")))


def dynamic_edsr(scale: int = 2) -> EDSR:
    """The tiny EDSR by PAMS at 4 bits; block inputs and second convolutions have chosen bits."""
    network, method = tiny_edsr(scale), PAMS(PAMSConfig())
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 12, 12)])
    for path in INPUTS:
        layer = network.get_submodule(path)
        scales = Scales(8, CANDIDATES)
        scales.alpha.data.copy_(layer.input_quantizer.alpha.detach() * torch.tensor([1, 1.5, 2]))
        layer.input_quantizer = scales
    attach(network, ByBrightness(CANDIDATES))
    return network.eval()
