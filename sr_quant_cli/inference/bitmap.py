"""Pictures of where a network took many bits and where few."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.runtimes.base import Pixels
from sr_quant_cli.system.files import SOFTWARE, replacing


def draw_bit_map(
    lr: Pixels, ran: Sequence[TileResult], candidates: Sequence[int], title: str, path: Path
) -> None:
    """Colour what is kept of every patch by its average bits, on top of the LR picture, as PNG.

    Parameters
    ----------
    lr
        uint8 ``[h, w, 3]``, as large as it is to be shown.
    ran
        All patches of the picture, with the bits that were chosen.
    candidates
        Bits to choose from: the ends of the scale of colours.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = sorted({t.rows.first for t in ran}), sorted({t.columns.first for t in ran})
    bits = np.zeros((len(rows), len(columns)))
    for tile in ran:
        assert tile.bits is not None
        bits[rows.index(tile.rows.first), columns.index(tile.columns.first)] = tile.bits.mean()
    height, width = max(t.rows.last for t in ran), max(t.columns.last for t in ran)
    inches = 8 * min(max(height / width, 0.25), 3)
    figure = Figure(figsize=(9.5, inches + 0.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Pale, or colours would not be those of the scale where the picture is dark.
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
    # A name is no formula, whatever signs are in it.
    mean = np.mean([np.mean(tile.bits) for tile in ran if tile.bits is not None])
    axes.set_title(f"{title}: {mean:.2f} bits", parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=SOFTWARE)
