"""Rounding weights so that errors cancel in a layer's output, and correcting biases.

Rounding every weight to its nearest level minimizes the error of the weights. The error that counts
is that of the output ``w x + c``, whose inputs ``x`` are correlated, and quantized themselves. With
the float layer's output ``y`` for float inputs, and mean squares over calibration data,

    minimize  mean (w x + c - y)^2 + damping |w - w0|^2

over levels ``w`` and biases ``c``. Without rounding this is linear least squares. Weights are then
rounded one by one. The remaining weights and the bias, which is never rounded, compensate for each
rounding error as far as they can (GPTQ [1]_). Layers are processed in the order of computation, so
each one also compensates for the errors before it. A layer that is used several times is fitted on
all of its inputs.

Inputs of 8 bits have errors so small that weights fitted to them lose more than they gain: where
inputs hardly vary, weights shrink. With them, ``y`` is the float layer's output for the quantized
inputs: weights compensate for rounding alone, and the bias for the mean error of the inputs. A
layer with too few inputs for a fit, as behind a global pooling, keeps its nearest levels.

References
----------
.. [1] E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization
       for Generative Pre-trained Transformers", ICLR 2023.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Queue
from threading import Event, Thread

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.grids import Grid, quantize
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.widths import MAX_BITS
from sr_quant_cli.system.reporting import progress, track

POSITIONS = 20_000
"""Output pixels, or tokens, that a layer is fitted on."""

FEWEST = 4
"""Inputs for each weight of an output channel that a fit needs."""

_TASK = "rounding weights"

_Layer = QuantConv2d | QuantLinear

DAMPING = 1e-4
"""Weight of the distance to the float weights, relative to the mean square of the inputs."""


@torch.no_grad()
def compensate(network: Network, reference: Network, batches: Sequence[Tensor]) -> None:
    """Round the weights of a calibrated network to preserve its layers' outputs, in place.

    Layers whose weight range follows from the weights are left unchanged, and those whose weight
    stays float.

    Parameters
    ----------
    network
        Quantized and calibrated network.
    reference
        The same network in float.
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.

    Raises
    ------
    ValueError
        Weights are quantized, and no layer has a calibrated weight range.
    """
    network.eval()
    assert network.quantization is not None
    fine = network.quantization.bits.a >= MAX_BITS
    fits, rounded = {}, False
    for site in network.sites():
        layer = network.get_submodule(site.path)
        if isinstance(layer, QuantConv2d | QuantLinear):
            quantizer = layer.weight_quantizer
            if isinstance(quantizer, Quantizer):
                rounded = True
                if (grid := quantizer.static_grid()) is not None:
                    fits[site.path] = _Fit(layer, grid, fine)
    if rounded and not fits:
        raise ValueError("this method takes the ranges of weights from the weights themselves")
    places = _places(network, batches[0][:1])
    pictures = sum(map(len, batches))
    fits = {
        path: fit
        for path, fit in fits.items()
        if sum(places[path]) * pictures >= FEWEST * fit.layer.weight[0].numel()
    }
    uses = {path: len(places[path]) for path in fits}
    if len(batches) == 1 and all(often == 1 for often in uses.values()):
        _fit_in_passing(network, reference, fits, batches[0])
    else:
        _fit_one_by_one(network, reference, fits, batches, uses)


@dataclass(frozen=True)
class _Fit:
    """A layer to fit, the grid of its weight, and True if its inputs have 8 bits."""

    layer: _Layer
    grid: Grid
    fine: bool


def _fit_one_by_one(
    network: Network,
    reference: Network,
    fits: Mapping[str, _Fit],
    batches: Sequence[Tensor],
    uses: Mapping[str, int],
) -> None:
    """Fit layer after layer, each on all of its inputs; both networks run for each of them."""
    for path, fit in track(fits.items(), len(fits), "layer", _TASK):
        share = POSITIONS // (uses[path] * len(batches))
        seen = _inputs(network, path, batches, uses[path])
        x = _operands(fit.layer, map(fit.layer.input_quantizer, seen), share)
        wanted = _inputs(reference, path, batches, uses[path])
        _fit(fit, x, _operands(fit.layer, wanted, share))


def _fit_in_passing(
    network: Network, reference: Network, fits: Mapping[str, _Fit], batch: Tensor
) -> None:
    """Fit every layer when a single pass of both networks reaches it."""
    with (
        progress(len(fits), "layer", _TASK) as bar,
        closing(_operands_in_order(reference, fits, batch)) as wanted,
    ):

        def reached(fit: _Fit, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = _operands(fit.layer, [fit.layer.input_quantizer(arguments[0])], POSITIONS)
            _fit(fit, x, next(wanted))
            bar.update()

        handles = [
            fit.layer.register_forward_pre_hook(partial(reached, fit)) for fit in fits.values()
        ]
        try:
            network(batch)
        finally:
            for handle in handles:
                handle.remove()


def _operands_in_order(
    reference: Network, fits: Mapping[str, _Fit], batch: Tensor
) -> Generator[Tensor, None, None]:
    """Yield the operands of layers in float, from a thread that is one layer ahead."""
    handed: Queue[Tensor | Exception] = Queue(maxsize=1)
    closed = Event()

    def hand(layer: _Layer, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if closed.is_set():
            raise _Reached
        handed.put(_operands(layer, [arguments[0]], POSITIONS))

    def run() -> None:
        try:
            with torch.no_grad(), suppress(_Reached):
                reference(batch)
        except Exception as error:
            handed.put(error)

    handles = [
        reference.get_submodule(path).register_forward_pre_hook(partial(hand, fit.layer))
        for path, fit in fits.items()
    ]
    thread = Thread(target=run)
    thread.start()
    try:
        for _ in fits:
            operands = handed.get()
            if isinstance(operands, Exception):
                raise operands
            yield operands
    finally:
        closed.set()
        with suppress(Empty):
            handed.get_nowait()  # lets the thread go on to where it ends
        thread.join()
        for handle in handles:
            handle.remove()


def _fit(fit: _Fit, x: Tensor, x0: Tensor) -> None:
    """Fit a layer's rounded weights and bias to its operands ``[groups, pixels, n]``."""
    layer, grid = fit.layer, fit.grid
    per_group = len(layer.weight) // len(x)
    for group, (seen, seen0) in enumerate(zip(x, x0, strict=True)):
        rows = slice(group * per_group, (group + 1) * per_group)
        start = layer.weight[rows].flatten(1)
        if fit.fine and layer.bias is not None:
            layer.bias[rows] += start @ (seen0.mean(0) - seen.mean(0))
        if layer.bias is not None:
            start = torch.cat([start, layer.bias[rows, None]], dim=1)
            seen, seen0 = (F.pad(values, (0, 1), value=1.0) for values in (seen, seen0))
        start, seen, seen0 = start.double(), seen.double(), seen0.double()
        count = layer.weight[0].numel()
        square = seen.T @ seen / len(seen)
        damping = torch.zeros_like(square[0])
        # The lower limit keeps the weights of a layer whose inputs are all zero.
        damping[:count] = (DAMPING * square.diag()[:count].mean()).clamp_min(1e-12)
        square.diagonal().add_(damping)
        best = start
        if not fit.fine:
            target = start @ (seen0.T @ seen) / len(seen) + damping * start
            best = torch.linalg.solve(square, target.T).T
        fitted = _round(best, square, _rows(grid, rows), count).float()
        layer.weight[rows] = fitted[:, :count].reshape(layer.weight[rows].shape)
        if layer.bias is not None:
            layer.bias[rows] = fitted[:, count]


def _round(best: Tensor, square: Tensor, grid: Grid, count: int) -> Tensor:
    """Round ``count`` columns to levels, adjusting the others to minimize the error [1]_.

    Columns whose inputs have the largest mean square are rounded first.

    Parameters
    ----------
    best
        Least-squares solution, float64 ``[rows, n]``.
    square
        Mean products of the inputs ``[n, n]``, positive definite.

    Examples
    --------
    Two inputs that are always equal: rounding 1.4 up compensates for rounding 0.4 down.

    >>> square = torch.ones(2, 2, dtype=torch.float64) + 1e-6 * torch.eye(2)
    >>> best = torch.tensor([[0.4, 1.4]], dtype=torch.float64)
    >>> levels = Grid(*torch.tensor([1.0, 0.0, -4.0, 3.0]), first=-4, last=3, bits=3)
    >>> _round(best, square, levels, count=2).tolist()
    [[0.0, 2.0]]
    """
    order = square.diag()[:count].argsort(descending=True, stable=True)
    order = torch.cat([order, torch.arange(count, len(square))])
    weights = best[:, order]
    inverse = torch.linalg.inv(square[order][:, order])
    reach = torch.linalg.cholesky(inverse, upper=True)
    for column in range(count):
        rounded = quantize(weights[:, column].float(), grid).double()
        error = (weights[:, column] - rounded) / reach[column, column]
        weights[:, column:] -= error[:, None] * reach[column, column:]
        weights[:, column] = rounded
    return weights[:, order.argsort()]


def _rows(grid: Grid, rows: slice) -> Grid:
    """Grid of some output channels, flattened."""

    def part(value: Tensor) -> Tensor:
        return value.flatten()[rows] if value.numel() > 1 else value.flatten()

    step, origin = part(grid.step), part(grid.origin)
    return replace(grid, step=step, origin=origin, lower=part(grid.lower), upper=part(grid.upper))


def _operands(layer: _Layer, inputs: Iterable[Tensor], share: int) -> Tensor:
    """Operands ``[groups, pixels, n]`` at random places that depend on the inputs' shapes alone."""
    random = torch.Generator().manual_seed(0)
    drawn = [layer.operands(x, share, random) for x in inputs]
    return torch.cat(drawn, dim=1)


def _places(network: Network, picture: Tensor) -> dict[str, list[int]]:
    """Count the pixels or tokens in each use of a layer: blocks of CARN-M share their layers."""
    places: dict[str, list[int]] = {}

    def count(path: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        channels = inputs[0].shape[1 if isinstance(layer, QuantConv2d) else -1]
        places.setdefault(path, []).append(inputs[0].numel() // channels)

    layers = {site.path: network.get_submodule(site.path) for site in network.sites()}
    handles = [
        layer.register_forward_pre_hook(partial(count, path))
        for path, layer in layers.items()
        if isinstance(layer, QuantConv2d | QuantLinear)
    ]
    network(picture)
    for handle in handles:
        handle.remove()
    return places


class _Reached(Exception):  # noqa: N818 - no error
    """Signal that the layer was reached for the last time, which ends the forward pass."""


def _inputs(network: Network, path: str, batches: Sequence[Tensor], uses: int) -> Iterator[Tensor]:
    """Inputs of a layer with that many uses, batch by batch."""
    inputs: list[Tensor] = []

    def stop(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0])
        if len(inputs) == uses:
            raise _Reached

    handle = network.get_submodule(path).register_forward_pre_hook(stop)
    try:
        for batch in batches:
            with suppress(_Reached):
                network(batch)
            yield from inputs
            inputs.clear()
    finally:
        handle.remove()
