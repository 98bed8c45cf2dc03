"""Animated PNG files, put together from one PNG file for each frame."""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_apng(path: Path, frames: Iterable[bytes], durations: tuple[int, ...], loop: int) -> None:
    """Write an animation, of which one frame is in memory at a time.

    Parameters
    ----------
    frames
        PNG files of one size and kind; the first one has the metadata.
    durations
        Times of the frames in milliseconds.
    loop
        Number of times that the animation is shown; 0: forever.
    """
    from PIL.PngImagePlugin import putchunk  # slow to import

    sequence = 0
    with path.open("wb") as file:
        file.write(_SIGNATURE)
        for index, (frame, duration) in enumerate(zip(frames, durations, strict=True)):
            size = b""
            timed = False
            for kind, content in _chunks(frame):
                if kind == b"IHDR":
                    size = content[:8]
                if kind == b"IDAT" and not timed:
                    if not index:
                        putchunk(file, b"acTL", struct.pack(">II", len(durations), loop))
                    control = struct.pack(">8xHHBB", min(duration, 65535), 1000, 0, 0)
                    putchunk(file, b"fcTL", struct.pack(">I", sequence), size, control)
                    sequence += 1
                    timed = True
                if kind == b"IDAT" and index:
                    putchunk(file, b"fdAT", struct.pack(">I", sequence), content)
                    sequence += 1
                elif kind != b"IEND" and not index:
                    putchunk(file, kind, content)
        putchunk(file, b"IEND", b"")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at + 8 : at + 8 + length]
        at += length + 12
