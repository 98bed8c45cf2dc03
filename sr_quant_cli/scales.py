"""Enlargement factors."""

from sr_quant_cli.errors import UsageError

SCALES = (2, 3, 4)
"""Those that networks are built for."""


def check_scale(scale: int) -> None:
    """Refuse a scale that no network has.

    Raises
    ------
    UsageError
        It is none of ``SCALES``.
    """
    if scale not in SCALES:
        raise UsageError(f"--scale {scale}: must be one of {', '.join(map(str, SCALES))}")
