"""Pictures of the page, and the thread that enlarges them one after another."""

import logging
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Literal, Self

from sr_quant_cli.commands.batch import MAX_PIXELS, Batch
from sr_quant_cli.commands.jobs import UpscaleJob
from sr_quant_cli.commands.scaled_models import ScaledModels, find_models
from sr_quant_cli.errors import SrqError, UsageError, out_of_memory
from sr_quant_cli.imaging.decode import read_header
from sr_quant_cli.imaging.formats import READABLE
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.runtimes.registry import AUTO
from sr_quant_cli.system.interrupt import DeferredInterrupts
from sr_quant_cli.system.reporting import Progress, Silent, reporting
from sr_quant_cli.web.settings import PageSettings, in_labels
from sr_quant_cli.web.views import LONGEST, THUMBNAIL, draw_view

Status = Literal[
    "ready", "waiting", "preparing", "enlarging", "writing", "done", "failed", "stopped"
]
_BUSY = ("preparing", "enlarging", "writing")

_LONGEST_NAME = 120
_SUFFIXES = frozenset(suffix for suffixes in READABLE.values() for suffix in suffixes)


@dataclass(frozen=True)
class Limits:
    """Limits on what the page keeps and makes.

    Attributes
    ----------
    pictures
        Largest number of pictures with their results.
    bytes
        Largest size of an uploaded file.
    pixels
        Largest number of pixels of a result.
    """

    pictures: int = 100
    bytes: int = 2**29
    pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Enlarged:
    """A finished result: the file, the name to save it by, and what the page says of it."""

    path: Path
    view: Path
    name: str
    width: int
    height: int
    seconds: float
    not_kept: tuple[str, ...]
    settings: PageSettings

    def to_json(self) -> dict[str, Any]:
        """Plain values for the page."""
        return {
            "version": self.path.stem,
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "bytes": self.path.stat().st_size,
            "seconds": self.seconds,
            "not_kept": [in_labels(loss) for loss in self.not_kept],
            "settings": self.settings.model_dump(),
        }


@dataclass
class PagePicture:
    """A picture of the page, its state and its latest result."""

    number: int
    name: str
    folder: Path
    source: Path
    height: int = 0
    width: int = 0
    frames: int = 1
    status: Status = "ready"
    settings: PageSettings | None = None
    message: str = ""
    fraction: float = 0.0
    begun: float = 0.0
    result: Enlarged | None = None
    removed: bool = False
    interrupts: DeferredInterrupts = field(default_factory=DeferredInterrupts)

    @property
    def before(self) -> Path:
        """The picture as the comparison shows it."""
        return self.folder / "before.png"

    @property
    def thumbnail(self) -> Path:
        """The picture as the list shows it."""
        return self.folder / "thumbnail.png"

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.height * self.width * self.frames

    @property
    def seconds_left(self) -> float | None:
        """Time that the network still needs; None: unknown."""
        if self.status != "enlarging" or not self.fraction:
            return None
        return (time.monotonic() - self.begun) * (1 - self.fraction) / self.fraction

    def to_json(self) -> dict[str, Any]:
        """Plain values for the page."""
        return {
            "number": self.number,
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "frames": self.frames,
            "status": self.status,
            "message": self.message,
            "fraction": round(self.fraction, 4),
            "seconds_left": self.seconds_left,
            "result": None if self.result is None else self.result.to_json(),
        }


class PagePictures:
    """The pictures of the page, in a folder of their own, and the thread that enlarges them.

    Parameters
    ----------
    folder
        Folder for the pictures and their results; the caller removes it.
    options
        Options of running the models.
    limits
        Limits on pictures and results.
    """

    def __init__(
        self,
        folder: Path,
        options: RunOptions | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.limits = limits
        self.folder = folder
        self._options = options or RunOptions(runtime=AUTO)
        self._pictures: dict[int, PagePicture] = {}
        self._numbers = count(1)
        self._waiting: deque[PagePicture] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pixels, self._seconds = 0.0, 0.0
        self._models: tuple[tuple[object, ...], ScaledModels] | None = None
        # A daemon, so that a second Ctrl-C need not wait for it.
        self._worker = threading.Thread(target=self._work, name="enlarging", daemon=True)

    def __enter__(self) -> Self:
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            for picture in self._pictures.values():
                picture.interrupts.interrupt()
            self._changed.notify()
        self._worker.join()

    def add(self, name: str, file: Path) -> PagePicture:
        """Take a file as a new picture; it is moved.

        Raises
        ------
        UsageError
            There are too many pictures, or this one is damaged or too large.
        """
        number, name = next(self._numbers), _file_name(name)
        folder = self.folder / str(number)
        suffix = Path(name).suffix.lower()
        source = folder / f"source{suffix if suffix in _SUFFIXES else ''}"
        picture = PagePicture(number, name, folder, source)
        try:
            folder.mkdir()
            file.rename(source)
            self._look(picture)
            with self._changed:
                self.check_room()
                self._pictures[number] = picture
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, SrqError):
                raise type(error)(_in_names(error, picture)) from error
            raise
        return picture

    def check_room(self) -> None:
        """Refuse more pictures than there may be.

        Raises
        ------
        UsageError
            With the limit.
        """
        if len(self._pictures) >= self.limits.pictures:
            raise UsageError(
                f"there are {self.limits.pictures} pictures, which is the most: remove some first"
            )

    def enlarge(self, number: int, settings: PageSettings) -> None:
        """Put a picture in the queue.

        Raises
        ------
        UsageError
            It is there already, or there is no such picture.
        """
        with self._changed:
            picture = self.find(number)
            if picture.status in ("waiting", *_BUSY):
                raise UsageError(f"{picture.name} is being enlarged already")
            if not self._waiting and not self._busy():
                self._pixels, self._seconds = 0.0, 0.0
            picture.settings, picture.interrupts = settings, DeferredInterrupts()
            picture.status, picture.message, picture.fraction = "waiting", "", 0.0
            self._waiting.append(picture)
            self._changed.notify()

    def stop(self, number: int) -> None:
        """Stop enlarging a picture, at the next tile if it has begun; an earlier result stays.

        Raises
        ------
        UsageError
            There is no such picture.
        """
        with self._changed:
            picture = self.find(number)
            if picture.status == "waiting":
                self._waiting.remove(picture)
                picture.status = "stopped"
            picture.interrupts.interrupt()

    def remove(self, number: int) -> None:
        """Remove a picture and its result.

        Raises
        ------
        UsageError
            There is no such picture.
        """
        with self._changed:
            self.stop(number)
            picture = self._pictures.pop(number)
            picture.removed = True
            if picture.status not in _BUSY:
                shutil.rmtree(picture.folder, ignore_errors=True)

    def find(self, number: int) -> PagePicture:
        """Return a picture.

        Raises
        ------
        UsageError
            There is no such picture.
        """
        try:
            return self._pictures[number]
        except KeyError:
            raise UsageError(f"there is no picture {number}") from None

    def results(self) -> list[Enlarged]:
        """Finished results, in the order of the pictures."""
        with self._changed:
            found = [picture.result for picture in self._pictures.values()]
            return [result for result in found if result is not None]

    def to_json(self) -> dict[str, Any]:
        """State of all pictures for the page, and the time that is left in seconds or None."""
        with self._changed:
            return {
                "pictures": [picture.to_json() for picture in self._pictures.values()],
                "seconds_left": self._seconds_left(),
            }

    def _busy(self) -> list[PagePicture]:
        return [picture for picture in self._pictures.values() if picture.status in _BUSY]

    def _seconds_left(self) -> float | None:
        """Time for all waiting pictures, at the speed since the queue was empty."""
        pixels, seconds = self._pixels, self._seconds
        left = float(sum(picture.pixels for picture in self._waiting))
        for picture in self._busy():
            left += picture.pixels * (1 - picture.fraction)
            if picture.status == "enlarging":
                pixels += picture.pixels * picture.fraction
                seconds += time.monotonic() - picture.begun
        return left * seconds / pixels if left and pixels else None

    def _look(self, picture: PagePicture) -> None:
        """Read the size of a new picture, and draw it, which shows any damage."""
        header = read_header(picture.source)
        picture.height, picture.width, picture.frames = header.height, header.width, header.frames
        if picture.pixels > self.limits.pixels:
            raise UsageError(
                f"{picture.name} has {picture.pixels:,} pixels, more than the limit of "
                f"{self.limits.pixels:,} allows"
            )
        draw_view(picture.source, picture.before, LONGEST)
        draw_view(picture.before, picture.thumbnail, THUMBNAIL)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                picture = self._waiting.popleft()
                picture.status = "preparing"
            status, message = self._attempt(picture)
            with self._changed:
                picture.status, picture.message = status, message
                if picture.removed:
                    shutil.rmtree(picture.folder, ignore_errors=True)

    def _attempt(self, picture: PagePicture) -> tuple[Status, str]:
        """Enlarge a picture; return its status and a line for the user."""
        try:
            with reporting(_Notes(picture)):
                self._run(picture)
        except KeyboardInterrupt:
            return "stopped", ""
        except SrqError as error:
            if picture.interrupts.received is not None:
                return "stopped", ""
            return "failed", _in_names(error, picture)
        except Exception as error:  # a defect: the page stays alive, the terminal shows it
            if out_of_memory(error):
                return "failed", "out of memory: choose a smaller size"
            logging.getLogger("srq").exception("%s", picture.name)
            return "failed", f"an unexpected error, see the terminal: {type(error).__name__}"
        return "done", picture.message

    def _run(self, picture: PagePicture) -> None:
        settings = picture.settings
        assert settings is not None
        suffix = settings.suffix(picture.source)
        earlier = picture.result
        number = 1 if earlier is None else int(earlier.path.stem) + 1
        job = UpscaleJob(picture.source, picture.folder / f"{number}{suffix}")
        models = self._open(settings)
        batch = Batch(models, settings.batch_options(self.limits.pixels), picture.interrupts)
        opened = batch.read(job)
        outlook = opened.outlook
        models.open(outlook.scale, opened.picture.picture.bits, outlook.family)
        with self._changed:
            picture.begun, picture.status, picture.message = time.monotonic(), "enlarging", ""
        try:
            enlarged = batch.compute(job, opened, _Meter(picture))
        finally:
            with self._changed:
                self._seconds += time.monotonic() - picture.begun
                self._pixels += picture.pixels * picture.fraction
                picture.status = "writing"
        done = batch.write(job, enlarged)
        view = picture.folder / f"{number}-view.png"
        draw_view(job.target, view, LONGEST)
        picture.result = Enlarged(
            job.target,
            view,
            f"{Path(picture.name).stem}{settings.size.tag}{suffix}",
            done.width,
            done.height,
            done.seconds,
            done.not_kept,
            settings,
        )
        if earlier is not None:
            earlier.path.unlink()
            earlier.view.unlink()

    def _open(self, settings: PageSettings) -> ScaledModels:
        """Find the models of the settings; those of the latest picture are kept open."""
        key: tuple[object, ...] = ()
        if settings.model is not None:
            file = identify(settings.model).path
            stat = file.stat()  # a model of the user's may have been replaced by another one
            key = (file, stat.st_ino, stat.st_mtime_ns, settings.size.whole_factor)
        if self._models is None or self._models[0] != key:
            self._models = None
            self._models = (key, find_models(settings.model, settings.size, self._options))
        return self._models[1]


class _Meter(Progress):
    """Progress of a picture."""

    def __init__(self, picture: PagePicture) -> None:
        self._picture = picture

    def update(self, steps: float = 1) -> None:
        self._picture.fraction = min(1.0, self._picture.fraction + steps)

    def show(self, **values: str) -> None:
        pass


class _Notes(Silent):
    """Reporter that shows notes and warnings beside a picture."""

    def __init__(self, picture: PagePicture) -> None:
        self._picture = picture

    def note(self, line: str) -> None:
        told = self._picture.message
        self._picture.message = "; ".join(filter(None, (told, in_labels(line))))

    def warn(self, line: str) -> None:
        self.note(line)


def _file_name(text: str) -> str:
    r"""Return the last part of a path as a name of a file.

    >>> _file_name("../a\n/b.png"), _file_name("C:\\c.png"), _file_name("..")
    ('b.png', 'c.png', 'picture')
    """
    name = PurePosixPath(PureWindowsPath(text).name).name
    name = "".join(letter for letter in name if letter.isprintable() and letter not in ':*?"<>|')
    stem, suffix = PurePosixPath(name).stem.strip(" ."), PurePosixPath(name).suffix
    return f"{stem[:_LONGEST_NAME]}{suffix[:20]}" if stem else "picture"


def _in_names(error: SrqError, picture: PagePicture) -> str:
    """Put a message in the words of the page: names of pictures in place of paths."""
    text = str(error).replace(str(picture.source), picture.name)
    return in_labels(text.replace(f"{picture.folder}/", "the result "))
