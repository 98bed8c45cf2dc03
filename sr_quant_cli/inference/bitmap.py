"""Maps of the bits that a network chose for each patch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.runtimes.base import Pixels
from sr_quant_cli.system.files import SOFTWARE, replacing


def draw_bit_map(
    lr: Pixels, tiles: Sequence[TileResult], candidates: Sequence[int], title: str, path: Path
) -> None:
    """Draw the average bits of every patch as colours over the LR picture, as PNG.

    Parameters
    ----------
    lr
        uint8 ``[h, w, 3]``, in the size in which it is shown.
    tiles
        All patches of the picture, with their chosen bits.
    candidates
        Bits to choose from; the smallest and largest are the ends of the colour scale.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = sorted({t.rows.first for t in tiles}), sorted({t.columns.first for t in tiles})
    bits = np.zeros((len(rows), len(columns)))
    for tile in tiles:
        assert tile.bits is not None
        bits[rows.index(tile.rows.first), columns.index(tile.columns.first)] = tile.bits.mean()
    height, width = max(t.rows.last for t in tiles), max(t.columns.last for t in tiles)
    inches = 8 * min(max(height / width, 0.25), 3)
    figure = Figure(figsize=(9.5, inches + 0.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Pale, so that dark parts do not change the colours of the scale.
    pale = lr.mean(axis=2, dtype=np.float32)
    axes.imshow(pale, cmap="gray", vmin=-320, vmax=255, extent=(0, width, height, 0))
    coloured = axes.pcolormesh(
        [*columns, width],
        [*rows, height],
        bits,
        cmap="viridis",
        vmin=min(candidates),
        vmax=max(candidates),
        alpha=0.55,
    )
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    scale = figure.colorbar(coloured, ax=axes, shrink=0.8)
    scale.set_label("average bits of a patch")
    # The title may hold any signs, but is never a formula.
    mean = np.mean([np.mean(tile.bits) for tile in tiles if tile.bits is not None])
    axes.set_title(f"{title}: {mean:.2f} bits", parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=SOFTWARE)
