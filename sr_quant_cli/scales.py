"""Upscaling factors."""

from sr_quant_cli.errors import UsageError

SCALES = (2, 3, 4, 8)
"""Scales that networks are built for."""


def check_scale(scale: int) -> None:
    """Refuse a scale that no network has.

    Raises
    ------
    UsageError
        It is not in ``SCALES``.
    """
    if scale not in SCALES:
        allowed = ", ".join(map(str, SCALES))
        raise UsageError(f"must be one of {allowed}", field="scale", value=scale)


def check_enlargement(model: str, scale: int, wanted: int | None) -> None:
    """Refuse a model whose scale differs from the requested one.

    Parameters
    ----------
    model
        Name of the model, for the message.
    scale
        Scale of the model.
    wanted
        Requested scale; None accepts any.

    Raises
    ------
    UsageError
        The two differ.
    """
    if wanted not in (scale, None):
        raise UsageError(f"model {model} enlarges by {scale}, not by {wanted}")
