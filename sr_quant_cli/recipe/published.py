"""Published figures of methods, from ``published.toml`` beside this file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sr_quant_cli.strict import Strict


class _Row(Strict):
    method: str
    bits: str
    psnr: list[float]


class _Table(Strict):
    source: str
    network: str
    config: dict[str, Any] = Field(default={})
    scale: int
    bench: list[str]
    full_precision: list[float] = Field(default=[])
    reference: str = ""
    rows: Annotated[list[_Row], Field(min_length=1)]


class _Tables(Strict):
    table: list[_Table]


@dataclass(frozen=True)
class Published:
    """PSNR of a method on benchmark sets, as published.

    Attributes
    ----------
    psnr
        dB, by set.
    drop
        dB below full precision, by set, where that is known.
    source
        Paper and table, and where full precision is from.
    """

    psnr: Mapping[str, float]
    drop: Mapping[str, float]
    source: str


def find_published(network: Mapping[str, Any], method: str, bits: str) -> Published | None:
    """Find what was published on a method; None: nothing is known.

    Parameters
    ----------
    network
        Configuration of the network.
    bits
        As ``w4a4``.

    Examples
    --------
    >>> network = {"name": "edsr", "scale": 4, "n_feats": 64}
    >>> find_published(network, "daq", "w2a2").psnr["Set5"]
    31.01
    """
    for table in _tables().table:
        wanted = {"name": table.network, "scale": table.scale, **table.config}
        if any(network.get(key) != value for key, value in wanted.items()):
            continue
        for row in table.rows:
            if (row.method, row.bits) == (method, bits):
                psnr = {b: p for b, p in zip(table.bench, row.psnr, strict=True) if p}
                full = dict(zip(table.bench, table.full_precision, strict=False))
                drop = {b: round(full[b] - p, 2) for b, p in psnr.items() if b in full}
                return Published(psnr, drop, _source(table))
    return None


def _source(table: _Table) -> str:
    """Say where figures are from, and what drops are measured against."""
    if not table.full_precision:
        return f"{table.source}; its full precision is not known"
    reference = table.reference or "full precision of the same table"
    return f"{table.source}; drops are from the {reference}"


@cache
def _tables() -> _Tables:
    text = Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    return _Tables.model_validate(tomllib.loads(text))
