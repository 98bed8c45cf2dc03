"""``srq cache``: the files that srq keeps to be faster the next time."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import FailedError
from sr_quant_cli.system.cached import KINDS, size_of
from sr_quant_cli.system.files import cache_dir


@dataclass(frozen=True)
class CachePart:
    """A folder of the cache."""

    name: str
    meaning: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Cache:
    """The cache folder, and its parts."""

    folder: Path
    parts: tuple[CachePart, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts)

    @property
    def files(self) -> int:
        """Number of files of all parts."""
        return sum(part.files for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "bytes": self.bytes,
            "parts": [asdict(part) for part in self.parts],
        }


def show_cache() -> Cache:
    """Measure the cache; a folder that cannot be read counts as empty."""
    folder = cache_dir()
    return Cache(folder, tuple(_measured(folder, name) for name in KINDS))


def clear_cache() -> None:
    """Remove everything in the parts of the cache, and nothing beside them.

    Raises
    ------
    FailedError
        A file cannot be removed.
    """
    for name in KINDS:
        part = cache_dir() / name
        try:
            for entry in list(part.iterdir()) if part.is_dir() else ():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise FailedError(f"cannot remove {error.filename}: {error.strerror}") from error


def _measured(folder: Path, name: str) -> CachePart:
    files, size = size_of(folder / name) if (folder / name).is_dir() else (0, 0)
    return CachePart(name, KINDS[name].meaning, files, size)
