"""A zip archive that is sent while it is made."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from sr_quant_cli.web.pictures import Enlarged

_CHUNK = 2**20


class _Pipe(io.RawIOBase):
    """Writable stream that holds what was written until it is taken."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        self._held += content
        return len(content)

    def take(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held


def zipped(results: Sequence[Enlarged]) -> Iterator[bytes]:
    """Yield the parts of an archive of results, stored as they are.

    Of several results with one name, the later ones are numbered.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, path in zip(_names(results), (r.path for r in results), strict=True):
            entry = zipfile.ZipInfo.from_file(path, name)
            with path.open("rb") as file, archive.open(entry, "w", force_zip64=True) as packed:
                while content := file.read(_CHUNK):
                    packed.write(content)
                    yield pipe.take()
    yield pipe.take()


def _names(results: Sequence[Enlarged]) -> list[str]:
    """Names that differ, even if the file system ignores case."""
    names: dict[str, str] = {}
    for result in results:
        name, number = result.name, 1
        while name.casefold() in names:
            number += 1
            path = PurePath(result.name)
            name = f"{path.stem} ({number}){path.suffix}"
        names[name.casefold()] = name
    return list(names.values())
