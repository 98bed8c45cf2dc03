"""Measuring an imported network: what its configuration says, from runs on pictures.

Scale, smallest size and reach follow from runs on parts of a photograph; the range of its values
from flat pictures, which a super-resolution network gives back as they are.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor, nn

from sr_quant_cli.errors import UsageError, first_line
from sr_quant_cli.modelfiles.onnx_graph import Graph
from sr_quant_cli.networks.anatomy import reach_of
from sr_quant_cli.networks.imported import GIVEN, ImportedConfig, run
from sr_quant_cli.networks.limits import VALUES
from sr_quant_cli.networks.nodes import Node
from sr_quant_cli.networks.operations import make_layer
from sr_quant_cli.scales import SCALES

Range = tuple[float, float]
RANGES: dict[str, Range] = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
"""ranges of values that networks take, by name"""
Colours = Literal["rgb", "bgr", "luma", "full_luma"]

SAME = 0.01
"""levels of 255 by which a part may differ from the whole picture"""
_REACHES = (4, 8, 12, 16, 24, 32, 48, 64)
_ALIGNMENTS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_HALO = 32
"""LR pixels around a tile where no reach suffices"""


@dataclass(frozen=True)
class OnnxHints:
    """Facts from the user; None: found by runs of the network.

    Parameters
    ----------
    input_range
        ``0..1``, ``0..255`` or ``-1..1``.
    scale
        Scale that the network must have.
    colours
        Channels: ``rgb``, ``bgr``, ``luma``, ``full_luma``.
    """

    input_range: str | None = None
    scale: int | None = None
    colours: Colours | None = None


class Probe:
    """Runs of a graph on made pictures, to find out what its configuration must say."""

    def __init__(self, graph: Graph, nodes: list[Node], state: dict[str, NDArray[Any]]) -> None:
        self._graph, self._nodes = graph, nodes
        self._state = {key: _tensor(value) for key, value in state.items()}
        layers = nn.ModuleDict({node.name: make_layer(node) for node in nodes})
        loaded = nn.Module()
        loaded.layers = layers
        loaded.load_state_dict(self._state)
        self._layers = layers.eval()
        self._problem = ""
        """why the latest size was not taken"""
        with torch.device("meta"):
            self._shapes_only = nn.ModuleDict({node.name: make_layer(node) for node in nodes})
        self._stub = ImportedConfig(
            nodes=nodes, result=graph.result, input_range=[0.0, 1.0], output_range=[0.0, 1.0]
        )
        self._channels, self._last = layout(graph)
        self._fixed = fixed_size(graph, self._last)

    def state_of(self, network: nn.Module) -> dict[str, Tensor]:
        """State of the finished network: the weights of the file, and its own buffers."""
        return {**network.state_dict(), **self._state}

    @torch.no_grad()
    def _run(self, x: Tensor, watch: Callable[[dict[str, Any]], None] | None = None) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, sH, sW]``, in the graph's own ranges."""
        x = x.permute(0, 2, 3, 1) if self._last else x
        y = run(self._stub, self._layers, x, watch=watch)[self._graph.result]
        if not isinstance(y, Tensor) or y.ndim != 4:
            raise ValueError("its output is no picture")
        return (y.permute(0, 3, 1, 2) if self._last else y).float()

    def _takes(self, height: int, width: int) -> bool:
        """True if the operations take a picture of this size."""
        return self._thin(height, width) is not None

    def _thin(self, height: int, width: int) -> set[str] | None:
        """Values of a single row or column for a picture of this size; None: it is not taken."""
        thin: set[str] = set()

        def watch(values: dict[str, Any]) -> None:
            if sum(x.numel() for x in values.values() if isinstance(x, Tensor)) > VALUES:
                raise UsageError("its operations make values that are too large")
            thin.update(
                name
                for name, x in values.items()
                if isinstance(x, Tensor) and x.ndim == 4 and 1 in x.shape[2:]
            )

        shape = (
            (1, height, width, self._channels) if self._last else (1, self._channels, height, width)
        )
        try:
            run(self._stub, self._shapes_only, torch.zeros(shape, device="meta"), watch=watch)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            self._problem = first_line(error)
            return None
        return thin

    def config(self, hints: OnnxHints) -> tuple[ImportedConfig, tuple[str, ...]]:
        """Configuration of the network, and what was assumed."""
        multiple, least = self._sizes()
        side = round_up(max(32, least), multiple)
        low, high, scale = self._ranges(hints, side)
        assumed = (
            [] if hints.input_range else [f"input range {low[0]:g}..{low[1]:g} (`input_range`)"]
        )
        colours: Colours = hints.colours or ("luma" if self._channels == 1 else "rgb")
        if ("luma" in colours) != (self._channels == 1):
            raise UsageError(
                f"its pictures have {self._channels} channels", field="colours", value=colours
            )
        if self._channels == 1 and hints.colours is None:
            assumed.append("its one channel is luma of 16 to 235 (`colours`)")
        whole, align, radius = self._reach(low, high, multiple, least)
        config = ImportedConfig(
            scale=scale,  # type: ignore[arg-type]
            nodes=self._nodes,
            result=self._graph.result,
            input_range=list(low),
            output_range=list(high),
            colours=colours,
            channels_last=self._last,
            radius=radius,
            align=align,
            multiple=multiple,
            least=least,
            single=not self._takes_batches(side),
            whole=whole,
            peak=self._peak(side),
        )
        return config, tuple(assumed)

    def _sizes(self) -> tuple[int, int]:
        """Multiple that sizes must have, and the smallest side."""
        for multiple in (1, 2, 4, 8, 16, 32, 64):
            # Sizes that no larger multiple has.
            if all(self._takes(n * multiple, m * multiple) for n, m in _odd(multiple)):
                break
        else:
            sizes = " x ".join(map(str, self._fixed)) + " only" if self._fixed else "no free size"
            raise ValueError(
                f"it takes pictures of {sizes} ({self._problem}): export it with free height and "
                "width (dynamic_axes)"
            )
        # Where an inner picture shrinks to one pixel, graphs would be made for this size alone.
        largest = round_up(96, multiple)
        usual = self._thin(largest, largest) or set()

        def takes(side: int) -> bool:
            thin = self._thin(side, side)
            return thin is not None and self._takes(side, largest) and thin <= usual

        sides = range(round_up(2, multiple), largest, multiple)
        if not takes(sides[0]):
            place = bisect_left(sides, True, lo=1, key=takes)
            return multiple, sides[place] if place < len(sides) else largest
        takes_one = sides[0] == 2 and self._takes(1, 1) and self._takes(1, largest)
        return multiple, 1 if takes_one else sides[0]

    def _ranges(self, hints: OnnxHints, side: int) -> tuple[Range, Range, int]:
        """Ranges of input and output in which flat pictures stay as they are, and the scale."""
        if hints.input_range is not None and hints.input_range not in RANGES:
            raise UsageError(
                f"must be one of {', '.join(RANGES)}", field="input_range", value=hints.input_range
            )
        asked = RANGES.get(hints.input_range or "")
        tones = torch.tensor([[0.2] * 3, [0.8] * 3, [0.7, 0.4, 0.2]])
        flat = tones[:, : self._channels, None, None].expand(-1, -1, side, side)
        best: tuple[float, Range, Range, int] | None = None
        for given in [asked] if asked else RANGES.values():
            made = torch.cat(
                [self._run(picture[None] * (given[1] - given[0]) + given[0]) for picture in flat]
            )
            scale = _scale(made, side, hints.scale)
            centre = made[
                :, :, side * scale // 4 : -side * scale // 4, side * scale // 4 : -side * scale // 4
            ]
            for out in RANGES.values():
                back = (centre.mean((2, 3)) - out[0]) / (out[1] - out[0])
                error = float((back - flat[:, :, 0, 0]).abs().mean())
                if given != out:
                    error *= 1.5  # ranges mostly are the same
                # The first is the most common: of others, flat pictures must tell clearly.
                if best is None or 4 * error < best[0]:
                    best = error, given, out, scale
        assert best is not None
        error, given, out, scale = best
        if not error < 0.25 and asked is None:
            raise UsageError(
                "it does not give flat pictures back, in any known range; name its range with "
                "`input_range` if it is a network for super-resolution"
            )
        return given, out, scale

    def _reach(self, low: Range, high: Range, multiple: int, least: int) -> tuple[bool, int, int]:
        """Find out how a part of a picture comes out as in the whole one.

        Returns
        -------
        True if it does not; the alignment of parts; LR pixels that they need on each side.
        """
        reach = reach_of(self._nodes, GIVEN, self._graph.result)
        if reach is not None:
            return False, multiple, reach
        side = round_up(256, multiple)
        picture = natural_pictures(self._channels, side, side)[:1]

        def enlarge(x: Tensor) -> Tensor:
            y = self._run(x * (low[1] - low[0]) + low[0])
            return y * (255 / (high[1] - high[0]))

        whole = enlarge(picture)
        scale = whole.shape[2] // side
        other = picture.clone()
        other[:, :, :32, :32] = 1 - other[:, :, :32, :32]
        far = slice(-32 * scale, None)
        if _differ(enlarge(other)[:, :, far, far], whole[:, :, far, far]):
            return True, multiple, _HALO

        def agrees(reach: int, align: int) -> bool:
            for at in (round_up(100, align), round_up(100, align) + align):
                first = max(0, (at - reach) // align * align)
                end = min(side, round_up(at + 16 + reach, multiple))
                if end - first < least:
                    return False
                part = enlarge(picture[:, :, first:end, first:end])
                kept = slice((at - first) * scale, (at - first + 16) * scale)
                place = slice(at * scale, (at + 16) * scale)
                if _differ(part[:, :, kept, kept], whole[:, :, place, place]):
                    return False
            return True

        for align in (m for m in _ALIGNMENTS if m % multiple == 0):
            if agrees(_REACHES[-1], align):
                return False, align, next(r for r in _REACHES if agrees(r, align))
        return True, multiple, _HALO

    def _takes_batches(self, side: int) -> bool:
        x = natural_pictures(self._channels, side, side)
        try:
            both = self._run(x)
            return bool(torch.allclose(both[1:], self._run(x[1:]), rtol=1e-3, atol=1e-4))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False

    def _peak(self, side: int) -> int:
        """Largest number of values in memory per pixel."""
        most = 0

        def watch(values: dict[str, Any]) -> None:
            nonlocal most
            most = max(most, sum(v.numel() for v in values.values() if isinstance(v, Tensor)))

        self._run(torch.zeros(1, self._channels, side, side), watch)
        return max(1, -(-most // side**2))


def natural_pictures(channels: int, height: int, width: int) -> Tensor:
    """Parts of a photograph, 0..1 ``[2, channels, height, width]``.

    Networks with products, as attention is, can grow without bounds on noise.
    """
    photograph = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[:channels].float() / 255
    repeated = photograph.repeat(1, -(-(height + 64) // 512), -(-(width + 64) // 512))
    parts = (repeated[:, at : at + height, at : at + width] for at in (0, 64))
    return torch.stack(list(parts))


def _differ(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > SAME


def _odd(multiple: int) -> list[tuple[int, int]]:
    start = -(-96 // multiple)
    start += 1 - start % 2
    return [(start, start + 2), (start + 4, start)]


def round_up(value: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-value // multiple) * multiple


def _tensor(array: NDArray[Any]) -> Tensor:
    dtype = np.int64 if array.dtype.kind in "iub" else np.float32
    return torch.from_numpy(np.ascontiguousarray(array.astype(dtype)))


def layout(graph: Graph) -> tuple[int, bool]:
    """Channels of the input, and true if they come last."""
    shape = graph.given.shape
    if len(shape) != 4:
        raise UsageError(
            f"its input has {len(shape)} dimensions; must be [N, C, H, W] or [N, H, W, C]"
        )
    for place, last in ((1, False), (3, True)):
        if shape[place] in (1, 3):
            return int(shape[place] or 0), last
    raise UsageError("its input has no dimension of 3 or 1 channels")


def fixed_size(graph: Graph, last: bool) -> tuple[int, ...]:
    """Height and width of a graph that takes one size alone, else nothing."""
    sides = graph.given.shape[1:3] if last else graph.given.shape[2:]
    return tuple(side for side in sides if side) if all(sides) else ()


def _scale(made: Tensor, side: int, wanted: int | None) -> int:
    height, width = made.shape[2:]
    scale = height // side
    if (height, width) != (scale * side, scale * side) or scale not in SCALES:
        raise ValueError(
            f"it makes {width}x{height} of {side}x{side}; must enlarge by {_words(SCALES)}"
        )
    if wanted is not None and scale != wanted:
        raise UsageError(f"it enlarges by {scale}", field="scale", value=wanted)
    return scale


def _words(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"
