"""From a quantized network to a program for srq's own kernels."""

from sr_quant_cli.errors import FailedError
from sr_quant_cli.kernels.from_graph import UnsupportedError, compile_graph
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.modelfiles.programs import ShippedProgram
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.cost import FLOAT_BITS
from sr_quant_cli.quant.sites import TENSORS


def kernel_program(network: Network, name: str) -> ShippedProgram | None:
    """Make the program of a network, which stays unchanged; this takes seconds.

    Returns
    -------
    None if not every layer is quantized for integer kernels, or srq's kernels do not run it.
    """
    if not _on_integers(network):
        return None
    try:
        deployed = deploy(network, name, "uint8", full_range=True)
        program = compile_graph(deployed.model)
    except (FailedError, UnsupportedError):
        return None
    assert network.quantization is not None
    return ShippedProgram(program, deployed.traits, network.quantization.sites[0].input_bits)


def _on_integers(network: Network) -> bool:
    """Tell if every layer has grids for integer kernels, which spares most networks the tracing."""
    if network.quantization is None:
        return False
    layers = [site for site in network.quantization.sites if site.site.kind not in TENSORS]
    return all(
        layer.integer
        and not layer.dynamic
        and FLOAT_BITS not in (layer.input_bits, layer.weight_bits)
        for layer in layers
    )
