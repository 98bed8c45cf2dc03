"""Registry of networks. A new one is a file here and two lines below."""

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.carn import CARN, CARNConfig
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.networks.folding import fold_modules
from sr_quant_cli.networks.idn import IDN, IDNConfig
from sr_quant_cli.networks.imported import Imported, ImportedConfig
from sr_quant_cli.networks.limits import at_most
from sr_quant_cli.networks.msrresnet import MSRResNet, MSRResNetConfig
from sr_quant_cli.networks.quantsr import QuantSRC, QuantSRCConfig
from sr_quant_cli.networks.quantsr_t import QuantSRT, QuantSRTConfig
from sr_quant_cli.networks.rdn import RDN, RDNConfig
from sr_quant_cli.networks.srresnet import SRResNet, SRResNetConfig
from sr_quant_cli.networks.swinir import SwinIR, SwinIRConfig
from sr_quant_cli.registry import Registry

REGISTRY = Registry[Network, NetworkConfig]("network")
register, network_names, config_class = REGISTRY.register, REGISTRY.names, REGISTRY.config_class

register(EDSR, EDSRConfig)
register(QuantSRC, QuantSRCConfig)
register(RDN, RDNConfig)
register(SRResNet, SRResNetConfig)
register(MSRResNet, MSRResNetConfig)
register(CARN, CARNConfig)
register(IDN, IDNConfig)
register(SwinIR, SwinIRConfig)
register(QuantSRT, QuantSRTConfig)
register(Imported, ImportedConfig, listed=False)


def build(config: NetworkConfig) -> Network:
    """Build the network that ``config`` names, with fresh weights.

    Raises
    ------
    TooLargeError
        It has more weights or tensors than srq allows, or memory is short.
    """
    cls, _ = REGISTRY.known[config.name]
    with at_most():
        network = cls(config)
        if config.folded:
            fold_modules(network)
    return network
