"""Cache of decoded training pairs in one memory-mapped file."""

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.data.benchmark import Pair
from sr_quant_cli.errors import FailedError
from sr_quant_cli.system.cached import mark_used, prune, trusted
from sr_quant_cli.system.files import cache_dir, read_sealed, scratch, write_sealed
from sr_quant_cli.system.reporting import progress

_INDEX, _PIXELS = "index.json", "pairs.bin"

_place: ContextVar[Path | None] = ContextVar("place", default=None)


class PairStore:
    """Decoded LR and HR pictures of one scale, as views of a memory-mapped file.

    Parameters
    ----------
    folder
        Folder written by ``pack_pairs``.
    files
        HR pictures that it was made from.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        index = read_sealed(folder / _INDEX)
        self.scale: int = index["scale"]
        self._folder = folder
        self._unchecked: dict[int, int] = dict(enumerate(index["crc32"]))
        self.lr_sizes: NDArray[np.int64] = np.array(index["lr_sizes"], dtype=np.int64)
        """Height and width of each LR picture, ``[n, 2]``."""
        file: NDArray[np.uint8] = np.memmap(folder / _PIXELS, dtype=np.uint8, mode="r")
        self.pixels: NDArray[np.uint8] = file.reshape(-1, 3)
        """RGB of every pixel, row by row: LR and HR of the first pair, then of the second, ..."""
        self.lr_pixels: NDArray[np.int64] = self.lr_sizes.prod(axis=1)
        """LR pixels of each pair."""
        ends = np.cumsum(self.lr_pixels * (1 + self.scale**2))
        self.lr_starts: NDArray[np.int64] = np.concatenate([[0], ends[:-1]])
        """Index in ``pixels`` at which each LR picture begins."""
        self.hr_starts: NDArray[np.int64] = self.lr_starts + self.lr_pixels
        """Index in ``pixels`` at which each HR picture begins."""

    def __len__(self) -> int:
        return len(self.lr_sizes)

    def pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return a pair as uint8 views: LR ``[h, w, 3]`` and HR ``[s*h, s*w, 3]``.

        Raises
        ------
        FailedError
            The pixels are not those that were written; they are removed from the cache.
        """
        height, width = map(int, self.lr_sizes[index])
        start, middle = int(self.lr_starts[index]), int(self.hr_starts[index])
        end = middle + (middle - start) * self.scale**2
        expected = self._unchecked.get(index)
        if expected is not None:
            if zlib.crc32(self.pixels[start:end].data) != expected:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise FailedError(
                    f"{self._folder}: cached pictures were damaged, and are removed; run the same "
                    "command again"
                )
            self._unchecked.pop(index, None)
        lr = self.pixels[start:middle].reshape(height, width, 3)
        hr = self.pixels[middle:end].reshape(self.scale * height, self.scale * width, 3)
        return lr, hr


class PictureStore(PairStore):
    """LR pictures in memory, at scale 1: HR is the same picture.

    Parameters
    ----------
    pictures
        uint8 ``[h, w, 3]`` each, at least one.
    """

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        self.files = tuple(Path(f"image {index}") for index in range(len(pictures)))
        self._unchecked = {}
        self.scale = 1
        self.lr_sizes = np.array([picture.shape[:2] for picture in pictures], dtype=np.int64)
        self.pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
        self.lr_pixels = self.lr_sizes.prod(axis=1)
        self.lr_starts = self.hr_starts = np.cumsum(self.lr_pixels) - self.lr_pixels

    def pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return a picture twice, as uint8 views ``[h, w, 3]``."""
        height, width = map(int, self.lr_sizes[index])
        start = int(self.lr_starts[index])
        picture = self.pixels[start : start + height * width].reshape(height, width, 3)
        return picture, picture


@contextmanager
def packing_in(folder: Path) -> Iterator[None]:
    """Keep packed pairs in a folder instead of the cache during a block, in this thread."""
    token = _place.set(folder)
    try:
        yield
    finally:
        _place.reset(token)


def pack_pairs(pairs: Sequence[Pair], scale: int) -> PairStore:
    """Decode pairs into the cache, or open the file that an earlier call made of them.

    Raises
    ------
    FailedError
        The cache folder cannot be written or is full.
    UsageError
        A picture is missing or damaged.
    """
    folder = (_place.get() or cache_dir() / "pairs") / _fingerprint(pairs, scale)
    if not _is_whole(folder):
        try:
            with scratch(folder.parent) as temporary:
                made = temporary / folder.name
                made.mkdir()
                _pack(pairs, scale, made)
                if not _is_whole(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
        except OSError as error:
            if not _is_whole(folder):  # unless another process was faster
                raise FailedError(
                    f"cannot cache decoded pictures in {folder.parent}: {error.strerror}; "
                    "set SRQ_CACHE to a folder with room"
                ) from error
            prune(folder.parent)
    mark_used(folder)
    return PairStore(folder, [pair.hr for pair in pairs])


def _is_whole(folder: Path) -> bool:
    index = read_sealed(folder / _INDEX) if trusted(folder) else None
    if index is None:
        return False
    pixels = sum(height * width for height, width in index["lr_sizes"]) * (1 + index["scale"] ** 2)
    try:
        return bool((folder / _PIXELS).stat().st_size == 3 * pixels)
    except OSError:
        return False


def _pack(pairs: Sequence[Pair], scale: int, folder: Path) -> None:
    lr_sizes, checksums = [], []
    with (
        (folder / _PIXELS).open("wb") as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(len(pairs), "photo", "decoding") as bar,
    ):
        # In slices, so that only a few decoded pictures are in memory.
        for start in range(0, len(pairs), 16):
            for lr, hr in pool.map(lambda pair: pair.load(scale), pairs[start : start + 16]):
                contents = [np.ascontiguousarray(levels).data for levels in (lr, hr)]
                for content in contents:
                    file.write(content)
                checksums.append(zlib.crc32(contents[1], zlib.crc32(contents[0])))
                lr_sizes.append(lr.shape[:2])
                bar.update()
        file.flush()
        os.fsync(file.fileno())
    write_sealed(folder / _INDEX, {"scale": scale, "lr_sizes": lr_sizes, "crc32": checksums})


def _fingerprint(pairs: Sequence[Pair], scale: int) -> str:
    digest = hashlib.sha256(f"3 x{scale}".encode())
    for pair in pairs:
        for path in (pair.hr, pair.lr):
            if path is None:
                digest.update(b"bicubic")
            elif path.is_file():
                stat = path.stat()
                digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]
