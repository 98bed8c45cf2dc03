"""Classes that are found by the name in their configurations: networks, methods."""

from typing import Generic, TypeVar

from pydantic import BaseModel

from sr_quant_cli.errors import unknown

Made = TypeVar("Made")
Config = TypeVar("Config", bound=BaseModel)


class Registry(Generic[Made, Config]):
    """Classes of one kind, each with that of its configuration.

    Attributes
    ----------
    known
        By name.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.known: dict[str, tuple[type[Made], type[Config]]] = {}

    def register(self, made: type[Made], config: type[Config]) -> None:
        """Add a class under the ``name`` that its configuration declares.

        Raises
        ------
        ValueError
            The name is taken; the registry is left as it was.
        """
        name = config.model_fields["name"].default
        if name in self.known:
            raise ValueError(f"{self._kind} '{name}' is registered twice")
        self.known[name] = (made, config)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.known)

    def config_class(self, name: str) -> type[Config]:
        """Class of the configuration of that name.

        Raises
        ------
        UsageError
            There is none.
        """
        if name not in self.known:
            raise unknown(self._kind, name, self.names())
        return self.known[name][1]
