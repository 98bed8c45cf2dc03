"""Registry of methods. A new one is a file here and two lines below."""

from sr_quant_cli.methods.adabm import AdaBM, AdaBMConfig
from sr_quant_cli.methods.base import Method
from sr_quant_cli.methods.cabm import CABM, CABMConfig
from sr_quant_cli.methods.cadyq import CADyQ, CADyQConfig
from sr_quant_cli.methods.condiquant import CondiQuant, CondiQuantConfig
from sr_quant_cli.methods.daq import DAQ, DAQConfig
from sr_quant_cli.methods.dbdc_pac import DBDCPaC, DBDCPaCConfig
from sr_quant_cli.methods.ddtb import DDTB, DDTBConfig
from sr_quant_cli.methods.granular_dq import GranularDQ, GranularDQConfig
from sr_quant_cli.methods.lsq import LSQ, LSQConfig
from sr_quant_cli.methods.lsq_plus import LSQPlus, LSQPlusConfig
from sr_quant_cli.methods.minmax import MinMax, MinMaxConfig
from sr_quant_cli.methods.oaptq import OAPTQ, OAPTQConfig
from sr_quant_cli.methods.odm import ODM, ODMConfig
from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.methods.percentile import Percentile, PercentileConfig
from sr_quant_cli.methods.quantsr import QuantSR, QuantSRConfig
from sr_quant_cli.methods.srq import SRQ, SRQConfig
from sr_quant_cli.methods.twodquant import DOBI, DOBIConfig, TwoDQuant, TwoDQuantConfig
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.registry import Registry

REGISTRY = Registry[Method, MethodConfig]("method")
register, method_names, config_class = REGISTRY.register, REGISTRY.names, REGISTRY.config_class

register(AdaBM, AdaBMConfig)
register(CABM, CABMConfig)
register(CADyQ, CADyQConfig)
register(CondiQuant, CondiQuantConfig)
register(DAQ, DAQConfig)
register(DBDCPaC, DBDCPaCConfig)
register(DDTB, DDTBConfig)
register(DOBI, DOBIConfig)
register(GranularDQ, GranularDQConfig)
register(LSQ, LSQConfig)
register(LSQPlus, LSQPlusConfig)
register(MinMax, MinMaxConfig)
register(OAPTQ, OAPTQConfig)
register(ODM, ODMConfig)
register(PAMS, PAMSConfig)
register(Percentile, PercentileConfig)
register(QuantSR, QuantSRConfig)
register(SRQ, SRQConfig)
register(TwoDQuant, TwoDQuantConfig)


def build(config: MethodConfig) -> Method:
    """Build the method that ``config`` names."""
    method, _ = REGISTRY.known[config.name]
    return method(config)
