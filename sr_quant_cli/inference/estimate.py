"""Expected cost of enlarging a picture."""

from sr_quant_cli.records import record


@record
class Estimate:
    """Expected cost of enlarging a picture, without reading and writing it.

    Attributes
    ----------
    bytes
        Largest memory of a tile, its activations and a band of the result; None: unknown.
    seconds
        Time of the network on this machine; None: it was never measured.
    tiles
        Number of tiles.
    """

    bytes: int | None
    seconds: float | None
    tiles: int
