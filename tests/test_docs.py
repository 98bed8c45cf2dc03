"""Commands in the README and docs: all of them parse, and most pages are run as written."""

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import typer

from sr_quant_cli.cli.tree import app
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.checkpoints import ONNX_EXPORT
from sr_quant_cli.modelfiles.modelfile import save_model
from tests.helpers import picture, tiny_edsr
from tests.modelfiles.test_checkpoints import basicsr

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN = [
    "README.md",
    *(
        f"docs/{topic}.md"
        for topic in ("upscaling", "measuring", "quantizing", "training", "study")
    ),
    "docs/deploying.md",
    "docs/importing.md",
    "docs/faq.md",
    *(f"docs/tutorials/{page}.md" for page in ("first-picture", "engineer", "research")),
]
"""Pages that are run from top to bottom, each in its own folder."""

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LAUNCHED = re.compile(r"torchrun\s[^&;]*?-m sr_quant_cli(?=\s)")

NOT_RUN = {
    ("python3", "-m", "venv"): "needs the network; tests/test_packaging.py installs the wheel",
    (".", ".venv/bin/activate"): "needs the network; tests/test_packaging.py installs the wheel",
    ("pip", "install"): "needs the network; tests/test_packaging.py installs the wheel",
    ("pytest",): "this is it",
    ("srq", "data", "get"): "needs the network; the test makes what it would bring",
}
"""Beginnings of commands that are not run, each with the reason."""

_QUICK = (
    "--set train.batch=1 --set data.patch_hr=48 --set validation.crop_hr=48 "
    "--set train.log_every=1 --device cpu --threads 1"
)
_CALIBRATED = (
    f"{_QUICK} --set calibration.images=2 --set calibration.batch=1 --set calibration.patch_lr=12"
)
_DEPLOYED = f"{_CALIBRATED} --set calibration.mix=false"
SHORTER = {
    ("srq", "pretrain"): f"{_QUICK} --set train.iters=1",
    ("srq", "quantize"): f"{_CALIBRATED} --iters 1",
    ("srq", "quantize", "--method", "dobi"): _CALIBRATED,
    ("srq", "quantize", "--recipe"): f"small.safetensors {_CALIBRATED}",
    ("srq", "quantize", "mine.safetensors"): _DEPLOYED,
    ("srq", "quantize", "net.safetensors"): _DEPLOYED,
    ("srq", "quantize", "edsr-baseline-x4", "--data"): (
        f"{_DEPLOYED} --set calibration.compensate=false --set method.candidates=4 --no-report"
    ),
    ("srq", "distill"): f"{_QUICK} --iters 1",
    ("srq", "study"): "--only *-minmax-w4a4 --threads 1",
    ("srq", "upscale"): "--runtime torch",
    ("srq", "upscale", "photo.jpg"): "",
    ("srq", "upscale", "photo.jpg", "--model"): "--runtime torch",
    ("srq", "compare"): "--runtime torch",
    ("srq", "bench"): "small.safetensors --size 16x16 --runs 1",
    ("srq", "export"): "small.safetensors",
    ("srq", "quantize", "span.safetensors"): _DEPLOYED,
    ("srq", "export", "mine.safetensors"): "",
    ("srq", "export", "runs/span-w8a8"): "",
    ("srq", "export", "runs/mine"): "",
    ("srq", "export", "runs/net-int8"): "",
    ("srq", "import", "net.onnx"): "--input-range 0..1",
    ("srq", "import", "span.onnx"): "--input-range 0..1",
}
"""Options that shorten commands, by their beginnings; the longest match counts."""

STAND_INS = {
    "edsr-baseline-x4": "small.safetensors",
    "edsr-baseline-x4-w29a6": "mine.safetensors",
}
"""Networks that take the places of embedded ones in commands that measure them in several ways."""


def commands(script: str) -> list[list[str]]:
    """Split a shell script into commands; torchrun counts as what it starts."""
    script = re.sub(r"\\\n", " ", script)
    script = re.sub(r"(^|[ \t]+)#.*$", "", script, flags=re.MULTILINE)
    lexer = shlex.shlex(LAUNCHED.sub("srq", script), posix=True, punctuation_chars="&;\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&;\n"):
            found.append([])
        elif "\n" in word:  # a script in quotes
            found[-1:-1] = commands(word)
        else:
            found[-1].append(word)
    return [command for command in found if command]


def spans(page: Path) -> list[list[str]]:
    """Find commands in running text, without brackets and with the first of alternatives."""
    text = ANY_BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"`(srq [^`]+)`", text)
    return [shlex.split(re.sub(r"[\[\]]|\.\.\.|\\?\|\S+", "", span)) for span in found]


def typed(page: Path) -> list[list[str]]:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for kind, block in blocks if kind == "sh" for line in commands(block)]
    return [line for line in lines if line[0] == "srq"]


def parse(arguments: list[str]) -> None:
    """Parse a command with the real parser, without running it."""
    command, name, context = typer.main.get_command(app), "srq", None
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, list(arguments), parent=context)
        rest = [*context._protected_args, *context.args]
        name, command, arguments = command.resolve_command(context, rest)
    command.make_context(name, list(arguments), parent=context)


def check_mention(words: list[str]) -> None:
    """Check that a command in running text exists, with all its options."""
    command, is_group = typer.main.get_command(app), True
    while is_group and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
        is_group = hasattr(command, "commands")
    kinds = [command, *command.commands.values()] if is_group else [command]
    options = {option for kind in kinds for param in kind.params for option in param.opts}
    unknown = [word for word in words if word.startswith("-")]
    unknown = [word for word in unknown if word not in {*options, "-h", "--help"}]
    if is_group and words and not words[0].startswith("-") and command.name != "bench":
        unknown.append(words[0])
    assert not unknown, f"there is no {', '.join(unknown)}"


def redirected(command: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separate a command from the files that it reads (<) and writes (>)."""
    marks = {word: command[place + 1] for place, word in enumerate(command) if word in "<>"}
    words = [word for word in command if word not in {*marks, *marks.values()}]
    return words, marks


def longest(table: dict[tuple[str, ...], str], command: list[str]) -> tuple[str, ...] | None:
    """Return the longest key of a table that a command begins with."""
    fitting = [key for key in table if tuple(command[: len(key)]) == key]
    return max(fitting, key=len, default=None)


def test_scripts_are_taken_apart():
    script = """
        cd a && srq eval --scale 2    # and 3
        torchrun --nnodes 2 \\
            -m sr_quant_cli upscale 'my pictures/' -o b/
        bash -c '
            torchrun -m sr_quant_cli eval' now
    """
    assert commands(script) == [
        ["cd", "a"],
        ["srq", "eval", "--scale", "2"],
        ["srq", "upscale", "my pictures/", "-o", "b/"],
        ["srq", "eval"],
        ["bash", "-c", "now"],
    ]


@pytest.mark.parametrize(
    "wrong",
    ["upscale a.png --modell b", "eval --runtime tensorrt", "data fetch DIV2K", "bench --size"],
)
def test_what_does_not_exist_does_not_parse(wrong):
    with pytest.raises(Exception, match=r"No such|[Ii]nvalid|must be one of|requires an argument"):
        parse(wrong.split())
    with pytest.raises(AssertionError, match="there is no"):
        check_mention(["upscale", "--modell"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_parses(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    checks = [
        *((parse, redirected(command)[0]) for command in typed(page)),
        *((check_mention, command) for command in spans(page)),
    ]
    for check, command in checks:
        try:
            check([word for word in command[1:] if word != "..."])
        except Exception as error:
            wrong.append(f"{' '.join(command)}: {error}")
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """Find the anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", ANY_BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    missing = []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        linked = page.parent / target if target else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            missing.append(f"{target}#{anchor}")
    assert not missing


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 124


def test_the_page_on_own_networks_has_the_line_that_errors_give():
    assert f"\n    {ONNX_EXPORT}\n" in (ROOT / "docs/importing.md").read_text(encoding="utf-8")


def test_the_page_on_studies_shows_the_file_that_it_names():
    page = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    assert f"```toml\n{(ROOT / 'studies/smoke.toml').read_text(encoding='utf-8')}```" in page


def test_the_pages_with_python_are_run():
    with_python = {
        page.name for page in PAGES for kind, _ in BLOCK.findall(page.read_text()) if kind != "sh"
    }
    assert with_python == {
        "deploying.md",
        "first-picture.md",
        "engineer.md",
        "CONTRIBUTING.md",  # tests/outside runs it
        "plugins.md",  # tests/plugins run it
        "python.md",  # tests/api run it
    }


@pytest.fixture
def desk(tmp_path, monkeypatch, srq):
    """A folder with small substitutes for all files that the pages use but do not make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SRQ_DATA", raising=False)
    # Without what README's first command has written there.
    enlarged = shutil.ignore_patterns("*_x[234].png")
    shutil.copytree(ROOT / "docs/images", "docs/images", ignore=enlarged)
    shutil.copytree(ROOT / "studies", "studies")
    for name in ("photo.png", "holiday/beach.jpg", "holiday/sea.png"):
        write_rgb(Path(name), picture(24, 32))
    write_rgb(Path("photo.jpg"), picture(120, 160))
    sizes = {
        "photos": 4,
        "datasets/DIV2K/DIV2K_train_HR": 3,
        "datasets/DIV2K/DIV2K_valid_HR": 1,
        "datasets/benchmark/Set5/HR": 1,
        "datasets/benchmark/Urban100/HR": 1,
    }
    for folder, count in sizes.items():
        for index in range(count):
            write_rgb(Path(folder, f"{index:04}.png"), picture(64, 72, seed=index))
    for number in range(1201, 1301):
        write_rgb(Path(f"DIV8K/train/{number}.png"), picture(24, 24))
    save_model(Path("small.safetensors"), tiny_edsr(4), Card(name="small"))
    save_model(Path("mine.safetensors"), tiny_edsr(4), Card(name="mine"))
    assert srq("export", "small.safetensors", "-o", "mine.onnx")[0] == 0
    for name in ("net.onnx", "span.onnx"):
        shutil.copy("mine.onnx", name)
    torch.save(basicsr(tiny_edsr(4)), "edsr.pth")
    return tmp_path


def run(srq, command, more=()):
    """Run a command; one with redirected streams in a process of its own."""
    command, files = redirected(command)
    words = [*command, *more]
    if files:
        with ExitStack() as stack:
            streams = {"<": ("stdin", "rb"), ">": ("stdout", "wb")}
            opened = {
                streams[mark][0]: stack.enter_context(Path(file).open(streams[mark][1]))
                for mark, file in files.items()
            }
            python = [sys.executable, "-m", "sr_quant_cli", *words[1:]]
            done = subprocess.run(python, **opened, stderr=subprocess.PIPE, check=False)
        code, err = done.returncode, done.stderr.decode()
    else:
        code, _, err = srq(*words[1:])
    assert code == 0, f"{' '.join(words)}\n{err}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_from_top_to_bottom(page, desk, srq):
    for kind, block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if kind == "python":
            done = subprocess.run(
                [sys.executable, "-c", block], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block}\n{done.stderr}"
            continue
        for command in commands(block):
            if longest(NOT_RUN, command):
                continue
            assert command[0] == "srq", f"neither run nor left out: {command}"
            key = longest(SHORTER, command)
            if "edsr-baseline-x4-w29a6" in command or command[1] == "bench":
                command = [STAND_INS.get(word, word) for word in command]
            run(srq, command, SHORTER[key].split() if key else [])
    if page == "docs/deploying.md":
        by_srq = read_rgb(desk / "photo.png").shape
        for name in ("photo_x4.png", "photo_float_x4.png", "photo_openvino_x4.png"):
            assert read_rgb(desk / name).shape == (4 * by_srq[0], 4 * by_srq[1], 3)


@pytest.mark.slow
def test_the_examples_of_upscale_run(desk, srq):
    for name in ("dynamic.safetensors", "runs/edsr-x4/model.safetensors"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("small.safetensors", name)
    examples = srq("upscale", "--help")[1].partition("Examples:\n")[2].partition("\n\n")[0]
    typed = commands(textwrap.dedent(examples))
    assert len(typed) >= 10
    for command in typed:
        if "--bit-map" not in command:  # needs bits that follow the picture: tests/cli
            run(srq, command, ["--runtime", "torch"])


def test_tables_name_commands_that_are_there():
    pages = [(ROOT / page).read_text() for page in RUN]
    blocks = [block for page in pages for kind, block in BLOCK.findall(page) if kind == "sh"]
    there = [command for block in blocks for command in commands(block)]
    for table in (NOT_RUN, SHORTER):
        used = {longest(table, command) for command in there}
        assert not table.keys() - used
