"""The networks srq knows, by name. A new one is a file here and a line below."""

from sr_quant_cli.errors import unknown
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.carn import CARN, CARNConfig
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.networks.folding import fold_modules
from sr_quant_cli.networks.idn import IDN, IDNConfig
from sr_quant_cli.networks.msrresnet import MSRResNet, MSRResNetConfig
from sr_quant_cli.networks.quantsr import QuantSRC, QuantSRCConfig
from sr_quant_cli.networks.quantsr_t import QuantSRT, QuantSRTConfig
from sr_quant_cli.networks.rdn import RDN, RDNConfig
from sr_quant_cli.networks.srresnet import SRResNet, SRResNetConfig
from sr_quant_cli.networks.swinir import SwinIR, SwinIRConfig

_REGISTRY: dict[str, tuple[type[Network], type[NetworkConfig]]] = {}


def register(network: type[Network], config: type[NetworkConfig]) -> None:
    """Add a network under the ``name`` that its configuration declares.

    Raises
    ------
    ValueError
        The name is taken; the registry is left as it was.
    """
    name = config.model_fields["name"].default
    if name in _REGISTRY:
        raise ValueError(f"network '{name}' is registered twice")
    _REGISTRY[name] = (network, config)


register(EDSR, EDSRConfig)
register(QuantSRC, QuantSRCConfig)
register(RDN, RDNConfig)
register(SRResNet, SRResNetConfig)
register(MSRResNet, MSRResNetConfig)
register(CARN, CARNConfig)
register(IDN, IDNConfig)
register(SwinIR, SwinIRConfig)
register(QuantSRT, QuantSRTConfig)


def network_names() -> list[str]:
    """Names of all networks, sorted."""
    return sorted(_REGISTRY)


def config_class(name: str) -> type[NetworkConfig]:
    """Configuration class of a network.

    Raises
    ------
    UsageError
        No network has that name.
    """
    if name not in _REGISTRY:
        raise unknown("network", name, network_names())
    return _REGISTRY[name][1]


def build(config: NetworkConfig) -> Network:
    """Build the network that ``config`` names, with fresh weights."""
    cls, _ = _REGISTRY[config.name]
    network = cls(config)
    if config.folded:
        fold_modules(network)
    return network
