"""Models that have names, described from the headers of their files without torch."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.card import Card, SetScore
from sr_quant_cli.modelfiles.named import (
    Kind,
    Source,
    embedded_models,
    header_text,
    identify,
    user_models,
)
from sr_quant_cli.quant.widths import Width
from sr_quant_cli.strict import in_words
from sr_quant_cli.system.reporting import warn


class SiteBits(BaseModel):
    """Precision of a quantization site; None: floating point."""

    input: Width | None = None
    weight: Width | None = None
    dynamic: bool = False
    """the bits of the input follow the picture"""


class _Quantization(BaseModel):
    method: dict[str, Any]
    w: Width
    a: Width
    sites: dict[str, SiteBits] | None = None


class _Network(BaseModel):
    name: str
    scale: int


class _Header(BaseModel):
    """Entries of a model file's header that describe it; ``modelfile.Header`` has all of them."""

    version: str
    network: _Network
    quantization: _Quantization | None = None
    card: Card


@dataclass(frozen=True)
class NamedModel:
    """A model that has a name.

    Attributes
    ----------
    name
        Name that every command takes.
    owner
        ``srq``: embedded; ``user``: in the user's folder.
    kind
        See ``Source``.
    network, scale
        None: only loading the file would show them.
    bits
        Bits of weights and activations, as ``w8a8``, or ``float``; None: as ``scale``.
    method
        Method of quantization; empty: none, or as ``scale``.
    sites
        Quantization sites by path; empty where the file names none.
    problem
        Reason why the model cannot be used; empty: none is known.
    milliseconds
        Time for a small picture on one thread of this machine; None: not measured.
    """

    name: str
    path: Path
    owner: Literal["srq", "user"]
    kind: Kind
    bytes: int
    network: str | None = None
    scale: int | None = None
    bits: str | None = None
    method: str = ""
    version: str | None = None
    sites: tuple[tuple[str, SiteBits], ...] = field(default=(), repr=False)
    card: Card = field(default_factory=Card, repr=False)
    problem: str = ""
    milliseconds: float | None = None

    @property
    def score(self) -> SetScore | None:
        """Score to compare models by: on the first of these sets that the card has."""
        order = {bench: index for index, bench in enumerate(("Set14", "Set5", "B100", "Urban100"))}
        ranked = sorted(
            self.card.scores,
            key=lambda s: (order.get(s.bench, len(order)), s.protocol != "matlab"),
        )
        return next(iter(ranked), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "path": str(self.path),
            "sites": {path: bits.model_dump() for path, bits in self.sites},
            "card": self.card.model_dump(),
        }


def named_models() -> list[NamedModel]:
    """Describe the embedded models and those in the user's folder, damaged ones included.

    Raises
    ------
    UsageError
        The user's folder cannot be read.
    """
    embedded = embedded_models()
    models = [describe(name, identify(path)) for name, path in embedded.items()]
    for name, files in user_models().items():
        if name in embedded:
            warn(f"{files[0]}: its name is that of an embedded model, which hides it: rename it")
            continue
        for file in files:
            model = _describe_file(name, file)
            others = ", ".join(other.name for other in files if other != file)
            if others:
                model = replace(model, problem=f"{file} shares its name with {others}: rename one")
            models.append(model)
    return models


def describe(name: str, source: Source) -> NamedModel:
    """Describe a model; of a checkpoint or graph only its file."""
    path = source.path
    owner: Literal["srq", "user"] = "srq" if source.kind == "embedded" else "user"
    model = NamedModel(name, path, owner, source.kind, path.stat().st_size)
    if not source.is_model_file:
        return model
    try:
        header = _read_header(path)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:100]
        return replace(model, problem=f"{path}, header: {place} {in_words(first)}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return replace(model, problem=f"{path}: its header is damaged")
    quantization = header.quantization
    return replace(
        model,
        network=header.network.name,
        scale=header.network.scale,
        bits=f"w{quantization.w}a{quantization.a}" if quantization else "float",
        method=str(quantization.method.get("name", "")) if quantization else "",
        version=header.version,
        sites=tuple((quantization.sites or {}).items()) if quantization else (),
        card=header.card,
    )


def _describe_file(name: str, file: Path) -> NamedModel:
    try:
        return describe(name, identify(file))
    except UsageError as error:
        return NamedModel(name, file, "user", "checkpoint", 0, problem=str(error))


def _read_header(path: Path) -> _Header:
    header = json.loads(header_text(path))
    return _Header.model_validate_json(header["__metadata__"]["srq"])
