"""Download of data sets, unpacking, and checks of the pictures on disk."""

import os
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock, Timeout

from sr_quant_cli.data.catalog import Archive, DataSet, Part
from sr_quant_cli.errors import FailedError, SrqError, UsageError, first_line
from sr_quant_cli.imaging.formats import picture_files
from sr_quant_cli.imaging.io import decodes
from sr_quant_cli.system.files import scratch, sweep
from sr_quant_cli.system.reporting import note, progress, track

_ATTEMPTS = 4
_TIMEOUT = 30
_CHUNK = 2**16
_FINAL = (400, 401, 403, 404, 405, 410, 451)
"""HTTP status codes for which a retry is pointless."""
_MAX_EXPANSION = 10
"""Largest ratio of unpacked to archived size; pictures hardly shrink in an archive."""


@dataclass(frozen=True)
class PartState:
    """State of a part on disk: pictures found and expected, and names of the damaged ones."""

    folder: str
    expected: int
    found: int
    damaged: tuple[str, ...]
    optional: bool

    @property
    def ok(self) -> bool:
        """True if the part can be used: it is complete, or optional and absent."""
        absent = self.found == 0 and self.optional
        return absent or (self.found >= self.expected and not self.damaged)


def state_of(part: Part, root: Path) -> PartState:
    """Count the pictures of a part and decode each of them, to find damaged ones."""
    folder = root / part.folder
    files = picture_files(folder) if folder.is_dir() else []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        intact = track(pool.map(decodes, files), len(files), "picture", f"checking {part.folder}")
        damaged = tuple(path.name for path, good in zip(files, intact, strict=True) if not good)
    return PartState(part.folder, part.pictures, len(files), damaged, part.optional)


def check(dataset: DataSet, root: Path) -> list[PartState]:
    """Decode every picture of a data set and return the state of each part."""
    return [state_of(part, root) for part in dataset.parts]


def get(dataset: DataSet, root: Path, *, hr_only: bool = False, keep: bool = False) -> list[str]:
    """Download the missing or damaged parts of a data set and unpack them below ``root``.

    Parameters
    ----------
    hr_only
        Leave out archives of LR pictures.
    keep
        Keep the archives after unpacking, in ``root/.downloads``.

    Returns
    -------
    One line per archive that says what was done.

    Raises
    ------
    UsageError
        The set needs registration; the message says which files to put where.
    FailedError
        A download failed or has the wrong md5 sum, an archive is unsafe or incomplete, or the disk
        is full.
    """
    if not dataset.archives:
        how = dataset.instructions.format(root=root)
        raise UsageError(f"{dataset.name} cannot be downloaded automatically: it {how}")
    lines = []
    downloads = root / ".downloads"
    with _alone(downloads):
        sweep(downloads)
        for archive in dataset.archives:
            wanted = [part for part in archive.parts if part in dataset.parts]
            if hr_only:
                wanted = [part for part in wanted if not part.optional]
            if not wanted:
                continue
            path = downloads / archive.name
            if all(_complete(part, root) for part in wanted):
                # Another download may have been killed behind the last move.
                sweep(root / archive.into)
                lines.append(f"{archive.name}: already there")
            else:
                unpack(download(archive, downloads), archive, root)
                lines.append(f"{archive.name}: unpacked below {root / archive.into}")
            if not keep:
                path.unlink(missing_ok=True)
                _partial(path).unlink(missing_ok=True)
    return lines


@contextmanager
def _alone(downloads: Path) -> Iterator[None]:
    """Wait for other downloads into the folder; remove the folder at the end if it is empty.

    Raises
    ------
    FailedError
        The folder cannot be written.
    """
    lock = FileLock(downloads / ".lock")
    while not lock.is_locked:
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                note(f"waiting for another download into {downloads.parent}")
                lock.acquire()
        except FileNotFoundError:  # the other download removed the folder when it finished
            continue
        except OSError as error:
            raise FailedError(f"cannot write {downloads}: {error.strerror or error}") from error
    try:
        yield
    finally:
        if [path.name for path in downloads.iterdir()] == [".lock"]:
            # Another download may lock the folder meanwhile; it will remove the folder itself.
            shutil.rmtree(downloads, ignore_errors=True)
        lock.release()


def download(archive: Archive, folder: Path) -> Path:
    """Download an archive, resuming a partial file, and verify its md5 sum.

    Raises
    ------
    FailedError
        The download failed after several attempts, or the server refused it.
    """
    pooch.get_logger().setLevel("ERROR")
    whole = folder / archive.name
    partial = _partial(whole)
    try:
        if whole.is_file() and pooch.file_hash(str(whole), "md5") == archive.md5:
            return whole
        with scratch(folder) as temporary:
            fetcher = pooch.create(
                path=temporary,
                base_url="",
                registry={archive.name: f"md5:{archive.md5}"},
                urls={archive.name: archive.url},
                retry_if_failed=_ATTEMPTS - 1,
            )
            fetched = Path(fetcher.fetch(archive.name, downloader=_Resuming(partial)))
            return fetched.replace(whole)
    except requests.RequestException as error:
        raise FailedError(
            f"cannot download {archive.url}: {_reason(error, urlsplit(archive.url).hostname)}; "
            "run the same command to resume"
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise FailedError(f"{archive.url} is not the expected file: {reason}") from error
    except OSError as error:
        raise FailedError(f"cannot write {folder}: {error.strerror or error}") from error


def _partial(whole: Path) -> Path:
    return whole.with_name(f"{whole.name}.part")


def unpack(path: Path, archive: Archive, root: Path) -> None:
    """Unpack an archive into a temporary folder, then move its folders into place.

    Raises
    ------
    FailedError
        The archive is damaged or lacks a part, a member points outside, or the disk is full.
    """
    destination = root / archive.into
    try:
        with scratch(destination) as temporary:
            _extract(path, temporary)
            for part in archive.parts:
                inside = PurePosixPath(part.folder).relative_to(archive.into)
                _move(temporary / inside, root / part.folder, part, archive)
    except (MemoryError, SrqError):
        raise
    except OSError as error:
        raise FailedError(f"cannot unpack {path}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise FailedError(f"{path} cannot be unpacked: it is damaged, or no archive") from error
    except Exception as error:  # a damaged archive may raise any exception
        raise FailedError(f"{path} cannot be unpacked: {first_line(error)}") from error


class _Resuming:
    """Downloader for pooch that resumes a partial file."""

    def __init__(self, partial: Path) -> None:
        self._partial = partial

    def __call__(self, url: str, output_file: str, _pooch: pooch.Pooch) -> None:
        start = self._partial.stat().st_size if self._partial.exists() else 0
        # With compression, neither the length nor the range would refer to the file itself.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with requests.get(url, stream=True, headers=headers, timeout=_TIMEOUT) as response:
            if start and response.status_code == requests.codes.requested_range_not_satisfiable:
                # Nothing is left to fetch; the md5 sum will show if the file is complete.
                self._partial.replace(output_file)
                return
            if response.status_code in _FINAL:
                answer = f"{response.status_code} {response.reason}"
                raise FailedError(f"cannot download {url}: {answer}")
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            start = start if resumed else 0
            size = int(response.headers.get("Content-Length", 0))
            # Room for the rest of the archive and for its unpacked pictures.
            _require_room(self._partial.parent, size + (start + size), "download and unpack")
            with (
                self._partial.open("ab" if resumed else "wb") as file,
                progress(start + size, "B", url.rpartition("/")[2], done=start) as bar,
            ):
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        self._partial.replace(output_file)


def _require_room(folder: Path, size: int, what_for: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise FailedError(
            f"{folder}: {size / 1e9:.1f} GB are needed to {what_for}, {free / 1e9:.1f} GB are "
            "free; make room or choose another `data_root`"
        )


def _reason(error: requests.RequestException, host: str | None) -> str:
    """Return the cause of a failed download, without the names of the libraries involved."""
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"{host} does not answer within {_TIMEOUT} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} is not accepted"
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    origin = getattr(cause, "__cause__", None) or getattr(cause, "__context__", None)
    if isinstance(origin, socket.gaierror):
        return f"cannot reach {host} (name not known)"
    if isinstance(origin, OSError) and origin.strerror:
        return f"cannot reach {host} ({origin.strerror.lower()})"
    return f"the connection to {host} broke off"


def _extract(path: Path, folder: Path) -> None:
    def check(sizes: Iterable[tuple[str, int]]) -> None:
        total = 0
        for name, size in sizes:
            member = PurePosixPath(name.replace("\\", "/"))
            if member.is_absolute() or ".." in member.parts:
                raise FailedError(f"{path}: member {name} points outside; nothing was unpacked")
            total += size
        if total > _MAX_EXPANSION * max(path.stat().st_size, 2**20):
            raise FailedError(
                f"{path}: would unpack to {total / 1e9:.1f} GB, far too much for an archive of "
                "pictures; nothing was unpacked"
            )
        _require_room(folder, total, "unpack")

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            check((entry.filename, entry.file_size) for entry in zipped.infolist())
            zipped.extractall(folder)
    else:
        with tarfile.open(path) as archive:
            # Links are left out: they may point anywhere.
            members = [entry for entry in archive if entry.isreg() or entry.isdir()]
            check((entry.name, entry.size) for entry in members)
            # Filters exist since Python 3.11.4; for these members they only change modes.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            archive.extractall(folder, members)


def _move(source: Path, target: Path, part: Part, archive: Archive) -> None:
    if not source.is_dir():
        if part.optional:
            return
        raise FailedError(f"{archive.name} does not hold {part.folder}")
    found = len(picture_files(source))
    if found < part.pictures:
        raise FailedError(
            f"{archive.name} holds {found} of {part.pictures} pictures of {part.folder}"
        )
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    # The folder exists: replace its pictures one by one, and keep the user's other files.
    for path in picture_files(source):
        path.replace(target / path.name)


def _complete(part: Part, root: Path) -> bool:
    state = state_of(part, root)
    return state.found >= state.expected and not state.damaged
