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


def check_enlargement(model: str, scale: int, wanted: int | None) -> None:
    """Refuse a model of another scale than is asked for; None: by any.

    Raises
    ------
    UsageError
        With both.
    """
    if wanted not in (scale, None):
        raise UsageError(f"model {model} enlarges by {scale}, not by {wanted}")
