"""Entries of the cache: whom they are believed, and how much room they may take.

Hashes show damage, but whoever can write an entry can write its hash as well. Entries that another
user can change are therefore treated as missing.
"""

import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from sr_quant_cli.records import record

_RECENT_S = 3600.0
"""Entries used within this time are never removed: another process may be making them."""


@record
class CacheKind:
    """A folder of the cache, which may be cleared at any time.

    Attributes
    ----------
    meaning
        Kind of its entries, in words.
    most
        Bytes above which the entries that were not used for longest are removed.
    """

    meaning: str
    most: int


KINDS = {
    "graphs": CacheKind("prepared graphs of models, and the runtimes chosen for them", 2**32),
    "programs": CacheKind("programs for srq's own kernels", 2**30),
    "pairs": CacheKind("decoded photographs of trainings", 2**37),
}
"""Folders of the cache; 128 GiB hold DIV2K and Flickr2K for all scales."""


def trusted(path: Path) -> bool:
    """Tell if an entry exists, and nobody but this user, root or a group can change it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if os.name == "nt":
        return True
    return (
        found.st_uid in (os.geteuid(), 0)
        and not stat.S_ISLNK(found.st_mode)
        and not found.st_mode & stat.S_IWOTH
    )


def claim(folder: Path) -> bool:
    """Make the folder of an entry, which others cannot change; return False if they can.

    A folder of this user that others could change is emptied.

    Raises
    ------
    OSError
        The folder cannot be made.
    """
    if not trusted(folder) and folder.is_dir() and not folder.is_symlink():
        if folder.stat().st_uid != os.geteuid():
            return False
        shutil.rmtree(folder)
    folder.mkdir(0o775, parents=True, exist_ok=True)
    return trusted(folder)


def mark_used(entry: Path) -> None:
    """Note that an entry was used now, if the cache can be written."""
    with suppress(OSError):
        os.utime(entry)


def prune(folder: Path) -> None:
    """Remove the entries of a folder of the cache that were not used for longest, above its limit.

    Entries of other users stay, and so do files with names that srq does not give.
    """
    if folder.name not in KINDS or not folder.is_dir():
        return
    most = KINDS[folder.name].most
    found = []
    for entry in folder.iterdir():
        with suppress(OSError):
            if not entry.name.startswith(".") and trusted(entry):
                found.append((entry.stat().st_mtime, size_of(entry)[1], entry))
    total = sum(size for _, size, _ in found)
    for used, size, entry in sorted(found, key=lambda each: each[0]):
        if total <= most or time.time() - used < _RECENT_S:
            return
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        total -= size


def size_of(entry: Path) -> tuple[int, int]:
    """Number of files in an entry, or below a folder, and their bytes."""
    if not entry.is_dir() or entry.is_symlink():
        return 1, entry.lstat().st_size
    sizes = [
        os.lstat(os.path.join(place, file)).st_size  # noqa: PTH118 - os.walk gives texts
        for place, _, files in os.walk(entry)
        for file in files
    ]
    return len(sizes), sum(sizes)
