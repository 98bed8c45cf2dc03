"""Comparison of a graph with its model, or of a model with bicubic, on real pictures."""

from dataclasses import dataclass

import numpy as np

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.lowering.samples import sample_pairs
from sr_quant_cli.metrics import get_protocol, rgb_psnr, score
from sr_quant_cli.runtimes.base import Kernels, Runtime

PROTOCOL = "matlab"


@dataclass(frozen=True)
class PictureCheck:
    """Results on one picture: PSNR in dB, against HR by the protocol or between two outputs."""

    name: str
    size: str
    max_difference: int
    """largest difference of 8-bit values"""
    psnr_between: float
    """PSNR between model and graph over all pixels; inf if they are equal"""
    psnr_model: float
    psnr_changed: float | None
    """PSNR of the changed network that the graph was made from; None if nothing was changed"""
    psnr_graph: float

    @property
    def cost(self) -> float:
        """Loss of PSNR against HR by the change, dB; 0 if nothing was changed."""
        return 0.0 if self.psnr_changed is None else self.psnr_model - self.psnr_changed

    @property
    def loss(self) -> float:
        """Loss of PSNR against HR by the graph, without the change, dB."""
        return self.psnr_model - self.cost - self.psnr_graph


@dataclass(frozen=True)
class Verification:
    """Results of running an exported graph."""

    runtime: str
    protocol: str
    kernels: Kernels
    pictures: tuple[PictureCheck, ...]

    @property
    def cost(self) -> float:
        """Mean loss of PSNR against HR by the change, dB."""
        return float(np.mean([p.cost for p in self.pictures]))

    @property
    def loss(self) -> float:
        """Mean loss of PSNR against HR by the graph, without the change, dB.

        The cost of a change is reported, not refused.
        """
        return float(np.mean([p.loss for p in self.pictures]))


def verify(
    model: Runtime, graph: Runtime, scale: int, changed: Runtime | None = None
) -> Verification:
    """Enlarge three real pictures of odd sizes by a model and by its graph.

    Parameters
    ----------
    changed
        Network in torch that the graph was made from; None if it is the model.
    """
    protocol = get_protocol(PROTOCOL)
    pictures = []
    for name, lr, hr in sample_pairs(scale):
        original = model(lr)
        wanted, got = original if changed is None else changed(lr), graph(lr)
        difference = np.abs(wanted.astype(np.int16) - got)
        pictures.append(
            PictureCheck(
                name=name,
                size=f"{lr.shape[1]}x{lr.shape[0]}",
                max_difference=int(difference.max()),
                psnr_between=rgb_psnr(wanted, got),
                psnr_model=score(original, hr, scale, protocol).psnr,
                psnr_changed=None if changed is None else score(wanted, hr, scale, protocol).psnr,
                psnr_graph=score(got, hr, scale, protocol).psnr,
            )
        )
    return Verification(graph.runtime, PROTOCOL, graph.kernels(), tuple(pictures))


def beside_bicubic(model: Runtime, scale: int) -> tuple[float, float]:
    """Measure the PSNR (dB, RGB) of a model and of bicubic on one real picture."""
    _, lr, hr = sample_pairs(scale)[0]
    return rgb_psnr(model(lr), hr), rgb_psnr(enlarge(lr, scale), hr)
