"""The methods srq knows, by name. A new one is a file here and a line below."""

from sr_quant_cli.errors import unknown
from sr_quant_cli.methods.adabm import AdaBM, AdaBMConfig
from sr_quant_cli.methods.base import Method, MethodConfig
from sr_quant_cli.methods.cabm import CABM, CABMConfig
from sr_quant_cli.methods.cadyq import CADyQ, CADyQConfig
from sr_quant_cli.methods.daq import DAQ, DAQConfig
from sr_quant_cli.methods.dbdc_pac import DBDCPaC, DBDCPaCConfig
from sr_quant_cli.methods.ddtb import DDTB, DDTBConfig
from sr_quant_cli.methods.granular_dq import GranularDQ, GranularDQConfig
from sr_quant_cli.methods.minmax import MinMax, MinMaxConfig
from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.methods.percentile import Percentile, PercentileConfig
from sr_quant_cli.methods.quantsr import QuantSR, QuantSRConfig
from sr_quant_cli.methods.twodquant import DOBI, DOBIConfig, TwoDQuant, TwoDQuantConfig

_REGISTRY: dict[str, tuple[type[Method], type[MethodConfig]]] = {}


def register(method: type[Method], config: type[MethodConfig]) -> None:
    """Add a method under the ``name`` that its configuration declares.

    Raises
    ------
    ValueError
        The name is taken; the registry is left as it was.
    """
    name = config.model_fields["name"].default
    if name in _REGISTRY:
        raise ValueError(f"method '{name}' is registered twice")
    _REGISTRY[name] = (method, config)


register(AdaBM, AdaBMConfig)
register(CABM, CABMConfig)
register(CADyQ, CADyQConfig)
register(DAQ, DAQConfig)
register(DBDCPaC, DBDCPaCConfig)
register(DDTB, DDTBConfig)
register(DOBI, DOBIConfig)
register(GranularDQ, GranularDQConfig)
register(MinMax, MinMaxConfig)
register(PAMS, PAMSConfig)
register(Percentile, PercentileConfig)
register(QuantSR, QuantSRConfig)
register(TwoDQuant, TwoDQuantConfig)


def method_names() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(_REGISTRY)


def config_class(name: str) -> type[MethodConfig]:
    """Configuration class of a method.

    Raises
    ------
    UsageError
        No method has that name.
    """
    if name not in _REGISTRY:
        raise unknown("method", name, method_names())
    return _REGISTRY[name][1]


def build(config: MethodConfig) -> Method:
    """Build the method that ``config`` names."""
    method, _ = _REGISTRY[config.name]
    return method(config)
