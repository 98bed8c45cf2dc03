"""Registries of networks and methods, by the names in their configurations."""

from typing import Generic, TypeVar

from pydantic import BaseModel

from sr_quant_cli.errors import UsageError, unknown

Made = TypeVar("Made")
Config = TypeVar("Config", bound=BaseModel)


class Registry(Generic[Made, Config]):
    """Classes of one kind, each with the class of its configuration.

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

    def __init__(self, kind: str) -> None:
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
        if not listed:
            self.unlisted.add(name)

    def names(self) -> list[str]:
        """List the names to choose from, sorted."""
        return sorted(self.known.keys() - self.unlisted)

    def config_class(self, name: str) -> type[Config]:
        """Find a configuration class by the name that a file or recipe gives.

        Raises
        ------
        UsageError
            Nothing is registered under that name.
        """
        if name not in self.known:
            raise UsageError(
                f"{unknown(self._kind, name, self.names())}; or a package that adds it is missing"
            )
        return self.known[name][1]
