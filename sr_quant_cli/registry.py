"""Registries of networks and methods, by the names in their configurations."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.plugins import Origin, load, load_all, note_origin, origin_of

Made = TypeVar("Made")
Config = TypeVar("Config", bound=BaseModel)


class Registry(Generic[Made, Config]):
    """Classes of one kind, each with the class of its configuration.

    A name that is not registered is looked for among the plugins.

    Parameters
    ----------
    kind
        Word for one of them in errors: ``network``, ``method``.

    Attributes
    ----------
    known
        Pairs of classes by name.
    unlisted
        Names that users do not choose: what they stand for is read from files.
    """

    def __init__(self, kind: Literal["network", "method"]) -> None:
        self._kind = kind
        self.known: dict[str, tuple[type[Made], type[Config]]] = {}
        self.unlisted: set[str] = set()

    def register(self, made: type[Made], config: type[Config], *, listed: bool = True) -> None:
        """Add a class under the default of its configuration's field ``name``.

        Raises
        ------
        ValueError
            The configuration declares no name, or the name is taken. The registry stays unchanged.
        """
        name = config.model_fields["name"].default
        if not isinstance(name, str):
            raise ValueError(
                f"{config.__name__} needs a field for the name of its {self._kind}, as in "
                'name: Literal["example"] = "example"'
            )
        if name in self.known:
            raise ValueError(f"{self._kind} '{name}' is registered twice")
        self.known[name] = (made, config)
        note_origin(self._kind, name)
        if not listed:
            self.unlisted.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self.known or (isinstance(name, str) and load(self._kind, name, self.known))

    def names(self) -> list[str]:
        """List the names to choose from, sorted."""
        load_all(self._kind, self.known)
        return sorted(self.known.keys() - self.unlisted)

    def origin(self, name: str) -> Origin | None:
        """Plugin that a registered class comes from; None: it is srq's own, or of no plugin."""
        made, _ = self.known.get(name, (None, None))
        if made is None or made.__module__.partition(".")[0] == __package__:
            return None
        return origin_of(self._kind, name)

    def config_class(self, name: str, origin: Origin | None = None) -> type[Config]:
        """Find a configuration class by the name that a file or recipe gives.

        Parameters
        ----------
        origin
            Plugin that it comes from, as a file says.

        Raises
        ------
        UsageError
            Nothing is registered under that name.
        """
        if name in self:
            return self.known[name][1]
        if origin is not None:
            raise UsageError(f"needs the {self._kind} '{name}' of {origin.advice}")
        head, _, names = str(unknown(self._kind, name, self.names())).partition(" known: ")
        raise UsageError(f"{head} a package that adds it may be missing; known: {names}")
