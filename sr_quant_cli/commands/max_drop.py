"""Limiting the loss of PSNR: the sites that lose most get more bits, one after another.

The loss is measured on held-out photographs. While it is above the limit, the site that loses most
by itself goes from fewer than 8 bits to 8, and from there to float. In this search the network is
changed in place: ranges and rounded weights of all other sites stay as they are. Then the network
is calibrated again with the sites found, and if the limit does not hold, the search goes on.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sr_quant_cli.commands.calibrate import TeacherStudent, calibrate, choose_placement
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.passes.sensitivity import in_float, quantized_sites, site_losses
from sr_quant_cli.quant.cost import FLOAT_BITS
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.plan import Bits, SiteBits, plan_sites
from sr_quant_cli.quant.sites import Precision
from sr_quant_cli.quant.widths import MAX_BITS, describe
from sr_quant_cli.recipe.schema import QuantizeRecipe
from sr_quant_cli.recipe.sites import SitesSection
from sr_quant_cli.system.reporting import note, track
from sr_quant_cli.training.loop import validation_psnr

_CPU = torch.device("cpu")
_SIDE = 48
"""LR pixels per side of the crops on which single sites are measured."""


@dataclass(frozen=True)
class Limited:
    """A recipe whose loss is within a limit, and the networks that its calibration gives."""

    recipe: QuantizeRecipe
    made: TeacherStudent


def check_limit(limit: float) -> None:
    """Refuse a limit that no network meets.

    Raises
    ------
    UsageError
        It is not above 0, or not finite.
    """
    if not 0 < limit < math.inf:
        raise UsageError("must be a number of dB above 0", field="max_drop", value=limit)


def limit_drop(
    network: Network,
    recipe: QuantizeRecipe,
    batches: Sequence[Tensor],
    held_out: PairStore,
    limit: float,
) -> Limited:
    """Calibrate a network with as many sites at higher precision as a limit needs.

    Every change is a note: the site, its precision before and now, and the drop of PSNR that is
    left.

    Parameters
    ----------
    network
        Network in full precision, left unchanged.
    batches
        LR pictures of the calibration, ``[N, 3, h, w]``, 0..1.
    held_out
        Pairs on which PSNR is measured, as in validation.
    limit
        Largest drop of PSNR by quantization, mean over the pictures, dB.

    Raises
    ------
    UsageError
        The recipe is not possible with this network.
    FailedError
        The limit cannot be met.
    """

    def psnr(network: Network) -> float:
        return validation_psnr(
            network, held_out, recipe.validation.crop_hr, _CPU, recipe.degradations
        )

    float_psnr = psnr(deepcopy(network))
    made = calibrate(network, recipe, batches)
    drop = float_psnr - psnr(made.student)
    note(f"drop of PSNR on {len(held_out)} held-out photographs: {drop:z.3f} dB")
    while drop > limit:
        search = _Search(made, recipe, held_out)
        while drop > limit and (step := search.step()):
            drop = float_psnr - psnr(search.network)
            note(f"{step}: {drop:z.3f} dB")
        if search.recipe == recipe:
            raise FailedError(
                f"`max_drop` {limit:g}: cannot be met: {drop:z.3f} dB are lost with only one site "
                "still quantized"
            )
        recipe = search.recipe
        made = calibrate(network, recipe, batches)
        drop = float_psnr - psnr(made.student)
        note(f"calibrated with these sites: {drop:z.3f} dB")
    return Limited(recipe, made)


class _Search:
    """A calibrated network whose sites go to higher precision, one by one.

    Attributes
    ----------
    network
        The network with the changes so far.
    recipe
        The recipe with them.
    """

    def __init__(self, made: TeacherStudent, recipe: QuantizeRecipe, held_out: PairStore) -> None:
        self.network = deepcopy(made.student)
        self.recipe = recipe
        self._teacher = made.teacher
        self._lr, self._hr = _crops(held_out)
        self._psnr: dict[str, float] = {}
        paths = quantized_sites(self.network)
        self._measure(paths, f"sensitivity of {len(paths)} sites")

    def step(self) -> str | None:
        """Give the site that loses most more bits.

        Returns
        -------
        The change in words; None: only one site is left, and something must be quantized.
        """
        if len(self._psnr) < 2:
            return None
        path = min(self._psnr, key=lambda path: self._psnr[path])
        before = self._plan()
        sites = self.recipe.sites.model_dump() | {path: _raised(before[path])}
        update = {"sites": SitesSection.model_validate(sites)}
        self.recipe = self.recipe.model_copy(update=update)
        after = self._plan()
        # Layers that had their input from this quantizer get one of their own.
        readers = [
            reader
            for reader, entry in after.items()
            if before[reader].given and not entry.given and entry.input_bits != FLOAT_BITS
        ]
        for reader in readers:
            quantizer = self.network.get_submodule(path).get_submodule("input_quantizer")
            _put_quantizer(self.network, reader, deepcopy(quantizer))
        in_float(self.network, self._teacher, path)
        del self._psnr[path]
        self._measure(readers)
        kind = before[path].site.kind
        return f"{path} ({kind}) from {_words(before[path])} to {_words(after[path])}"

    def _plan(self) -> dict[str, SiteBits]:
        method, bits = build_method(self.recipe.method), self.recipe.bits
        placement = choose_placement(self.recipe, method)
        plan = plan_sites(self.network.sites(), placement, Bits(bits.w, bits.a))
        return {entry.site.path: entry for entry in plan}

    def _measure(self, paths: Sequence[str], what: str = "") -> None:
        found = site_losses(self.network, self._teacher, [self._lr], [self._hr], paths)
        for loss in track(found, len(paths), "site", what) if what else found:
            self._psnr[loss.path] = loss.psnr


def _raised(entry: SiteBits) -> Precision | dict[str, Precision]:
    """Next precision of a site: 8 bits for operands with fewer, or float for all."""
    own = {} if entry.given else {"input": entry.input_bits}
    if entry.weight_bits:
        own["weight"] = entry.weight_bits
    if min(own.values()) >= MAX_BITS:
        return "fp32"
    raised: dict[str, Precision] = {
        operand: "fp32" if bits == FLOAT_BITS else "int8" for operand, bits in own.items()
    }
    # An input that is given stays as it is.
    raised.setdefault("input", "fp32" if entry.input_bits == FLOAT_BITS else entry.input_bits)
    return raised if entry.weight_bits else raised["input"]


def _words(entry: SiteBits) -> str:
    """Precision of a site in words; an input that is given is not its own."""
    own = {"weight": entry.weight_bits} if entry.weight_bits else {}
    if not entry.given:
        own["input"] = entry.input_bits
    if len(set(own.values())) == 1:
        return _width(own.popitem()[1])
    return ", ".join(f"{operand} {_width(bits)}" for operand, bits in own.items())


def _width(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else describe(bits)


def _put_quantizer(network: Network, path: str, quantizer: nn.Module) -> None:
    """Quantize the input of a site that was given it on its grid before."""
    module = network.get_submodule(path)
    if isinstance(module, QuantMatMul):
        module.left_quantizer, module.right_quantizer = quantizer, quantizer
    elif isinstance(module, QuantConv2d | QuantLinear):
        module.input_quantizer = quantizer
    else:
        network.set_submodule(path, QuantTensor(quantizer))


def _crops(held_out: PairStore) -> tuple[Tensor, Tensor]:
    """Crops from the middle of all pairs, of one size: LR ``[N, 3, h, w]`` and HR, 0..1."""
    height, width = (min(_SIDE, int(side)) for side in held_out.lr_sizes.min(axis=0))
    scale, lr, hr = held_out.scale, [], []
    for index in range(len(held_out)):
        small, large = held_out.pair(index)
        top, left = (small.shape[0] - height) // 2, (small.shape[1] - width) // 2
        lr.append(small[top : top + height, left : left + width])
        rows, columns = slice(top * scale, (top + height) * scale), slice(left * scale, None)
        hr.append(large[rows, columns][:, : width * scale])
    return to_tensor(np.stack(lr), _CPU), to_tensor(np.stack(hr), _CPU)
