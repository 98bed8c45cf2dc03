"""An exported graph beside the network that it was made from, on real pictures."""

from dataclasses import dataclass

import numpy as np

from sr_quant_cli.lowering.samples import sample_pairs
from sr_quant_cli.metrics import get_protocol, score
from sr_quant_cli.runtimes.base import Pixels, Runtime

PROTOCOL = "matlab"


@dataclass(frozen=True)
class PictureCheck:
    """One picture; PSNR in dB, against HR by the protocol, between the two over all pixels."""

    name: str
    size: str
    max_difference: int
    """largest difference of 8-bit codes"""
    psnr_between: float
    """inf: the same pixels"""
    psnr_model: float
    psnr_graph: float


@dataclass(frozen=True)
class Verification:
    """What an exported graph was seen to do."""

    runtime: str
    protocol: str
    integer_kernels: int
    float_kernels: int
    pictures: tuple[PictureCheck, ...]

    @property
    def loss(self) -> float:
        """DB of PSNR against HR that the graph loses, mean over the pictures."""
        return float(np.mean([p.psnr_model - p.psnr_graph for p in self.pictures]))


def verify(model: Runtime, graph: Runtime, scale: int) -> Verification:
    """Enlarge three real pictures of odd sizes by a model and by the graph made from it."""
    protocol = get_protocol(PROTOCOL)
    pictures = []
    for name, lr, hr in sample_pairs(scale):
        wanted, got = model(lr), graph(lr)
        difference = np.abs(wanted.astype(np.int16) - got)
        pictures.append(
            PictureCheck(
                name=name,
                size=f"{lr.shape[1]}x{lr.shape[0]}",
                max_difference=int(difference.max()),
                psnr_between=_psnr(wanted, got),
                psnr_model=score(wanted, hr, scale, protocol).psnr,
                psnr_graph=score(got, hr, scale, protocol).psnr,
            )
        )
    kernels = graph.kernels()
    return Verification(graph.runtime, PROTOCOL, kernels.integer, kernels.floating, tuple(pictures))


def _psnr(a: Pixels, b: Pixels) -> float:
    error = float(np.square(a.astype(np.float64) - b).mean())
    return float("inf") if not error else 10 * float(np.log10(255**2 / error))
