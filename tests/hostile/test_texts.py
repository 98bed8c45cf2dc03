"""Recipes, JSON reports, logs of runs, options and names of files."""

import json
import os
import string
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from sr_quant_cli.recipe.texts import recipe_names, recipe_text
from tests.hostile.corpus import DAMAGES, damaged
from tests.hostile.processes import sizes, survive
from tests.hostile.test_models import VALUES, changed

RECIPES = ("pretrain-edsr", "daq-edsr", "distill-edsr", "deploy", "cadyq-idn", "ddtb-rdn")


def show(place, content, *options, **changes):
    """Read a recipe as all training commands do, without training."""
    return place.attack("recipes", "show", place.put("r.toml", content), *options, **changes)


def test_the_recipes_themselves_are_read(place):
    assert set(RECIPES) <= set(recipe_names())
    for name in RECIPES:
        assert show(place, recipe_text(name)).code == 0


@sizes(part=6, whole=11 * 6 * 3)
def test_damaged_recipes(place, size):
    def case(name, damage, seed):
        show(place, damaged(recipe_text(name).encode(), damage, f"{name} {seed}"))

    every = [(n, damage, seed) for n in RECIPES for damage in DAMAGES for seed in range(3)]
    survive(place, case, size.sample(every))


def _toml(value):
    """A value of JSON as TOML can hold it."""
    if isinstance(value, dict):
        return {key: _toml(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_toml(item) for item in value if item is not None]
    return value


@sizes(part=8, whole=200)
def test_changed_values_of_recipes(place, size):
    tables = [tomllib.loads(recipe_text(name)) for name in RECIPES]

    @size.examples
    @given(st.sampled_from(tables).flatmap(changed))
    def attack(table):
        if not isinstance(table, dict):
            return
        show(place, tomli_w.dumps(_toml(table)))
        place.clear()

    attack()


@sizes(part=6, whole=150)
def test_options_that_change_recipes(place, size):
    keys = st.sampled_from(
        ["train.iters", "network.n_feats", "sites.head.input", 'sites."body.0.conv1".weight', "a.b"]
    ) | st.text(string.printable, max_size=20)
    values = VALUES.map(json.dumps) | st.text(string.printable, max_size=20)

    @size.examples
    @given(keys, values)
    def attack(key, value):
        place.attack("recipes", "show", "pretrain-edsr", "--set", f"{key}={value}")

    attack()


CRAFTED_RECIPES = {
    "deep": "a = " + "[" * 100_000,
    "deep table": "a = " + "{a=" * 100_000,
    "dotted": ".".join("a" * 100_000) + " = 1",
    "long number": "a = " + "9" * 100_000,
    "long": "a" * 2**21,
    "many tables": "".join(f"[t{i}]\n" for i in range(100_000)),
    "many sites": "[sites]\n"
    + "".join(f'"body.{i}.conv1" = {{ weight = 4 }}\n' for i in range(9999)),
    "nul": "a = \x00",
    "escapes": 'schema = 1\n[recipe]\nname = "\\u001b]0;t\\u0007"\n"\\u001b[2J" = 1\n',
    "another kind": "\x7fELF",
    "bytes": "\udcff",
}


@pytest.mark.hostile
def test_crafted_recipes(place):
    def case(name):
        content = CRAFTED_RECIPES[name].encode("utf-8", "surrogateescape")
        assert show(place, content, cpu=20).code == 2

    survive(place, case, [(name,) for name in CRAFTED_RECIPES])


SCORES = {
    "srq": "0.1.0",
    "protocol": "matlab",
    "rows": [{"model": "m", "bench": "Set5", "psnr": 31.0, "ssim": 0.9}],
}
SPEEDS = {
    "srq": "0.1.0",
    "rows": [
        {"model": "m", "variant": "v", "width": 9, "height": 9, "threads": 1, "median": 0.1},
    ],
}
RECIPE = recipe_text("pretrain-edsr")
LOG = "".join(
    json.dumps({"step": step, "seconds": 0.5 * step, "loss": 0.1, "lr": 1e-4}) + "\n"
    for step in (1, 2)
)


@pytest.mark.parametrize("report", [SCORES, SPEEDS], ids=["scores", "speeds"])
@sizes(part=3, whole=80)
def test_changed_reports(place, report, size):
    """What ``srq plot`` and ``srq report`` read may come from anybody."""

    @size.examples
    @given(changed(report))
    def attack(value):
        given = place.put("r.json", json.dumps(value))
        place.attack("plot", given, "-o", place.made / "p.svg")
        place.clear()

    attack()


@sizes(part=3, whole=60)
def test_damaged_reports_and_logs(place, size):
    def case(kind, damage, seed):
        if kind == "report":
            content = damaged(json.dumps(SCORES).encode(), damage, seed)
            place.attack("plot", place.put("r.json", content), "-o", place.made / "p.svg")
            return
        whole = {"log.jsonl": LOG, "recipe.toml": RECIPE}
        for name, text in whole.items():
            content = text.encode()
            place.put(f"run/{name}", damaged(content, damage, seed) if kind == name else content)
        place.attack("runs", "list", place.given)
        place.attack("runs", "show", place.given / "run", "-o", place.made / "c.png")

    kinds = ("report", "log.jsonl", "recipe.toml")
    every = [(kind, damage, f"{seed}") for kind in kinds for damage in DAMAGES for seed in range(2)]
    survive(place, case, size.sample(every))


@sizes(part=3, whole=80)
def test_changed_logs(place, size):
    entries = [json.loads(line) for line in LOG.splitlines()]

    @size.examples
    @given(changed(entries))
    def attack(value):
        lines = value if isinstance(value, list) else [value]
        place.put("run/log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        place.put("run/recipe.toml", RECIPE)
        place.attack("runs", "list", place.given, "--json", place.made / "r.json")
        place.clear()

    attack()


COMMANDS = {
    "upscale": (
        "--scale",
        "--width",
        "--fit",
        "--region",
        "--max-pixels",
        "--format",
        "--suffix",
        "--quality",
        "--tile",
        "--threads",
        "--runtime",
        "--device",
        "-o",
        "--depth",
        "--model",
    ),
    "eval": (
        "--bench",
        "--scale",
        "--protocol",
        "--sr-dir",
        "--patch",
        "--step",
        "--range",
        "--threads",
    ),
    "export": ("--scale", "--io", "--offsets", "--row", "-o", "--format"),
    "info": ("--size", "--scale", "--data"),
    "pretrain": ("--scale", "--recipe", "--set", "--data", "--init", "--max-time", "--resume"),
    "quantize": ("--method", "--w", "--a", "--placement", "--recipe", "--iters", "--max-drop"),
    "models add": ("--name",),
    "compare": ("--models", "--crop", "--protocol", "--hr"),
    "data check": ("--data-root",),
    "import": ("--scale", "--w", "--res-scale", "--range", "--input-range", "--name"),
    "recipes copy": ("--set",),
}
"""Options of commands; the commands are given an input that is missing, so none does much."""
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text("0123456789.,x-+eEkKMG:=/", max_size=12),
    st.sampled_from(
        [
            "",
            " ",
            "-",
            "--",
            "0",
            "-1",
            "1e400",
            "nan",
            "inf",
            "9" * 400,
            "a" * 300,
            "a" * 5000,
            "../x",
            "\udcff",
            "\x1b[2J",
            "None",
            "true",
            "٣",
            "½",
            "1_0",
            "0x10",
            "%s",
            "{0}",
            "a\nb",
        ]
    ),
)


def possible(text):
    """Tell if a command line can hold a word."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


@sizes(part=10, whole=400)
def test_values_of_options(place, size):
    pairs = [(command, option) for command in sorted(COMMANDS) for option in COMMANDS[command]]

    @size.examples
    @given(st.sampled_from(pairs), TEXTS, st.booleans())
    def attack(pair, text, joined):
        command, option = pair
        if not possible(text):
            return
        words = [f"{option}={text}"] if joined and option.startswith("--") else [option, text]
        place.attack(*command.split(), place.given / "missing.png", *words, cpu=40)
        place.clear()

    attack()


@sizes(part=5, whole=100)
def test_arguments_of_any_kind(place, size):
    words = st.lists(
        TEXTS | st.sampled_from(["upscale", "info", "--help", "-o", "data", "get", "x"]),
        min_size=1,
        max_size=4,
    )

    @size.examples
    @given(words)
    def attack(arguments):
        if all(map(possible, arguments)):
            place.attack(*arguments)
            place.clear()

    attack()


NAMES = [
    "-rf.png",
    "--help.png",
    "a b.png",
    "a\tb.png",
    "a\nb.png",
    "\x1b[2J.png",
    "\udcff\udcfe.png",
    "a[page=0].png",
    "a*.png",
    "$(touch canary).png",
    "`touch canary`.png",
    "%s%n.png",
    "{0}.png",
    "ä" * 120 + ".png",
    "a" * 251 + ".png",
    ".png",
    "a.png.png",
    "CON.png",
    "a?b#c.png",
    "~.png",
    "a\\b.png",
    "é.png",
    "e\u0301.png",
    "\u202egnp.png",
    "a;b.png",
    "'.png",
    '".png',
    "a.PNG",
]


@pytest.mark.parametrize(
    "whole",
    [pytest.param(False, id="part"), pytest.param(True, id="whole", marks=pytest.mark.hostile)],
)
def test_names_of_pictures(place, models, whole):
    """Every name that the file system takes is enlarged, alone and in a folder."""
    content = place.small.read_bytes()
    names = NAMES if whole else NAMES[::9]
    for name in names:
        place.put(f"all/{name}", content)
        for path in (place.given / "all" / name, f"./given/all/{name}"):
            ended = place.attack(
                "upscale",
                path,
                "--model",
                models["program"],
                "-o",
                f"{place.made}/",
                "--overwrite",
            )
            assert ended.code == 0 or len(name.encode()) > 240, ended
    place.attack(
        *("upscale", place.given / "all", "--model", models["program"]),
        *("-o", f"{place.made}/", "--overwrite"),
    )
    assert len(list(place.made.iterdir())) >= len(names) - 2
