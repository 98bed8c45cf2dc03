"""Command lines of srq in processes of an ordinary user, with limits, and what they leave."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings

from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

CODES = (0, 1, 2)
"""Exit codes of commands that no signal ended."""
MEMORY = 1 << 30
"""Bytes of address space that a command on a small input may add to those of the imports."""
SECONDS = 60
"""Processor time for a command on a small input, several times what any of them needs."""

_CHUNK = 100
_USER = 65534
_READ_ALL = "-all,+dac_read_search"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOUTS = ("Traceback", "Fatal Python error", "Error in sys.", "Exception ignored", "core dumped")
_ROOT = Path(__file__).parents[2]


def ordinary_user() -> list[str]:
    """Prefix of a command line that gives up the rights of root, but for reading.

    Python and srq may lie in folders that only root can read.
    """
    if os.geteuid():
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("runs as root, and there is no setpriv to become an ordinary user")
    user = [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    # Without it, access(2) would ask without the right to read all.
    user.append("--securebits=+no_setuid_fixup")
    rights = [f"--{kind}={_READ_ALL}" for kind in ("bounding-set", "inh-caps", "ambient-caps")]
    return [setpriv, *user, *rights]


def give(folder: Path) -> None:
    """Make the ordinary user the owner of a folder and of all in it."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            with suppress(FileNotFoundError):  # a process that is at work removed it
                os.chown(path, _USER, _USER, follow_symlinks=False)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    code
        Exit code; negative: the signal that killed it.
    late
        It was killed because it took too long.
    peak
        Largest resident set, bytes.
    violations
        What it changed outside its folder, started, or connected to.
    """

    code: int
    late: bool
    out: str
    err: str
    seconds: float
    cpu: float
    peak: int
    violations: str

    @property
    def last(self) -> str:
        """Last line of standard error."""
        return (self.err.splitlines() or [""])[-1]


class Child:
    """A process at work."""

    def __init__(self, server: "Server", pid: int, out: Path, err: Path, log: Path) -> None:
        self.pid = pid
        self._server, self._out, self._err, self._log = server, out, err, log

    def send(self, number: int) -> None:
        """Send a signal; the process stays a zombie until ``end``."""
        os.kill(self.pid, number)

    def running(self) -> bool:
        """Tell if the process has not ended yet."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0] != "Z"

    def end(self, patience: float = 120) -> Ended:
        """Wait for the end, at most ``patience`` seconds."""
        answer = self._server.ask({"do": "wait", "pid": self.pid, "patience": patience})
        texts = []
        for path in (self._out, self._err, self._log):
            texts.append(path.read_text(errors="replace") if path.exists() else "")
            path.unlink(missing_ok=True)
        out, err, violations = texts
        return Ended(**answer, out=out, err=err, violations=violations)


class Server:
    """The program ``server.py``, which has imported srq and forks."""

    def __init__(self, home: Path) -> None:
        give(home)
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment |= {name: str(home) for name in ("HOME", "TMPDIR", "MPLCONFIGDIR")}
        self._process = subprocess.Popen(
            [*ordinary_user(), sys.executable, "-m", "tests.hostile.server"],
            cwd=_ROOT,
            env={**environment, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.resident: int = self._answer()["resident"]
        self.count = 0

    def start(self, arguments: Iterable[object], folder: Path, **changes: object) -> Child:
        """Fork a child that runs a command line in ``folder``."""
        self.count += 1
        beside = folder.parent / "logs" / f"{self.count}"
        out, err = Path(f"{beside}.out"), Path(f"{beside}.err")
        wanted = {
            "do": "start",
            "arguments": [os.fsencode(str(word)).hex() for word in arguments],
            "folder": str(folder),
            "stdout": str(out),
            "stderr": str(err),
            "stdin": None,
            "closed": [],
            "environment": {},
            "network": False,
            "cpu": SECONDS,
            "memory": MEMORY,
            "call": "sr_quant_cli.cli.app:main",
            "violations": f"{beside}.log",
            **changes,
        }
        return Child(self, self.ask(wanted)["pid"], out, err, Path(f"{beside}.log"))

    def ask(self, wanted: dict) -> dict:
        """Send a request, and read the answer."""
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        assert line, f"the server has ended: {self._process.poll()}"
        return json.loads(line)

    def close(self) -> None:
        """End the server."""
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@dataclass
class Place:
    """A folder of the ordinary user: inputs in ``given``, outputs in ``made``, and a home."""

    server: Server
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    given_away: bool = False
    """Files of the folder belong to others on purpose."""

    def __post_init__(self) -> None:
        for name in ("given", "made", "cache", "models", "home", "scratch", "../logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        give(self.folder.parent / "logs")
        self.environment = {
            "SRQ_CACHE": str(self.folder / "cache"),
            "SRQ_MODELS": str(self.folder / "models"),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "scratch"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "cache"),
            **self.environment,
        }
        write_rgb(self.small, picture(9, 11))
        give(self.folder)

    @property
    def small(self) -> Path:
        """A small picture, in a folder of its own."""
        return self.folder / "small" / "p.png"

    @property
    def given(self) -> Path:
        """Folder of the inputs."""
        return self.folder / "given"

    @property
    def made(self) -> Path:
        """Folder that outputs are named in."""
        return self.folder / "made"

    @property
    def canary(self) -> Path:
        """File that exists once a payload has run."""
        return self.folder / "canary"

    def put(self, name: str, content: bytes | str) -> Path:
        """Write an input."""
        path = self.given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def start(self, *arguments: object, **changes: object) -> Child:
        """Start a command line in the folder."""
        if not self.given_away:
            give(self.folder)
        environment = self.environment | changes.pop("environment", {})
        return self.server.start(arguments, self.folder, environment=environment, **changes)

    def run(self, *arguments: object, patience: float = 120, **changes: object) -> Ended:
        """Run a command line in the folder to its end."""
        return self.start(*arguments, **changes).end(patience)

    def attack(self, *arguments: object, codes: Iterable[int] = CODES, **changes: object) -> Ended:
        """Run a command line on hostile input, and check all that must hold."""
        before = state(self.given)
        ended = self.run(*arguments, **changes)
        told = f"{[str(word)[:200] for word in arguments]}\n{ended}"
        assert not ended.late, told
        assert ended.code in codes, told
        assert not any(word in ended.err + ended.out for word in _SHOUTS), told
        assert not _CONTROL.search(ended.err + ended.out), told
        if ended.code:
            assert ended.err, told
            assert all(len(line) < 2000 for line in ended.err.splitlines()), told
            assert len(ended.err.splitlines()) < 100, told
            assert ended.last.startswith("srq: error: "), told
        assert not ended.violations, told
        assert not self.canary.exists(), told
        assert state(self.given) == before, told
        assert not litter(self.folder), (told, litter(self.folder))
        others = {path.name for path in self.folder.iterdir()} - {"given", "made", "small"}
        assert others <= {"cache", "models", "home", "scratch"}, (told, others)
        for name in ("home", "scratch", *(["made"] if ended.code == 2 else [])):
            assert not list((self.folder / name).iterdir()), (name, told)
        return ended

    def clear(self) -> None:
        """Remove inputs and outputs, for the next case."""
        for folder in (self.given, self.made, self.folder / "scratch"):
            shutil.rmtree(folder)
            folder.mkdir()
        give(self.folder)


@dataclass(frozen=True)
class Size:
    """Number of cases of a test, or of one of several tests that share them.

    Attributes
    ----------
    count
        Number of cases of all of them.
    chunk, chunks
        Index of this test, and their number.
    """

    count: int
    chunk: int = 0
    chunks: int = 1

    def sample(self, every: Iterable[tuple]) -> list[tuple]:
        """Choose from all cases, always the same ones."""
        return Random(0).sample(list(every), self.count)[self.chunk :: self.chunks]

    def examples(self, test: Callable[..., None]) -> Callable[..., None]:
        """Let hypothesis draw the cases, always the same ones, and look for no smaller ones."""
        drawn = settings(
            max_examples=-(-self.count // self.chunks),
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        return drawn(seed(self.chunk)(test))


def sizes(part: int, whole: int) -> pytest.MarkDecorator:
    """Parametrize a test by ``size``: few cases in every run, all with ``-m hostile``.

    The whole is cut into chunks, as a test is stopped after ten minutes.
    """
    chunks = -(-whole // _CHUNK)
    wholes = [
        pytest.param(
            Size(whole, chunk, chunks), id=f"{chunk + 1}of{chunks}", marks=pytest.mark.hostile
        )
        for chunk in range(chunks)
    ]
    parts = [pytest.param(Size(part), id="part")] if part else []
    return pytest.mark.parametrize("size", parts + wholes)


def survive(place: Place, case: Callable[..., object], cases: Iterable[tuple]) -> None:
    """Run cases in one place, one after the other, and tell of all that failed."""
    failed = []
    for arguments in cases:
        try:
            case(*arguments)
        except AssertionError as error:
            failed.append(f"{arguments}: {str(error)[:1500]}")
        place.clear()
    assert not failed, f"{len(failed)} failed\n" + "\n\n".join(failed)


def state(folder: Path) -> dict[str, str]:
    """Kinds and contents of all in a folder."""
    return {str(path.relative_to(folder)): _state_of(path) for path in sorted(folder.rglob("*"))}


def _state_of(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    if stat.S_ISREG(mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{stat.S_IFMT(mode):o}"


def litter(folder: Path) -> list[str]:
    """Temporary files and folders of srq that are left in a folder."""
    names = (".srq-tmp-*", "*.part", ".downloads", "core", "core.*")
    return sorted(str(path) for name in names for path in folder.rglob(name))
