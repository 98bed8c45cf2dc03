"""Licences, bill of materials, and wheels that can be made again."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def supply():
    spec = importlib.util.spec_from_file_location("supply", ROOT / ".ci/supply.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def listed():
    """Versions and licences on the page, by packages."""
    page = (ROOT / "docs/licences.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9][a-z0-9-]*) \| (\S+) \| (.+) \|$", page, re.MULTILINE)
    return {name: (number, licence) for name, number, licence in rows}


def test_the_page_has_the_pinned_versions(supply, listed):
    pinned = supply.pinned()
    assert {name: number for name, (number, _) in listed.items()} == {
        name: pinned[name] for name in listed
    }
    needed = supply.needed(supply.PROJECT["dependencies"])
    assert needed & pinned.keys() <= listed.keys()
    direct = {canonicalize_name(Requirement(each).name) for each in supply.PROJECT["dependencies"]}
    assert direct - {"openvino"} <= needed


def test_the_lowest_versions_are_those_that_are_allowed(supply):
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()[1:]
    lowest = {canonicalize_name(name): number for name, number in (x.split("==") for x in lines)}
    wanted = map(Requirement, supply.PROJECT["dependencies"])
    for requirement in wanted:
        number = lowest.pop(canonicalize_name(requirement.name))
        assert number in requirement.specifier, requirement
    assert not lowest


def test_hashes_are_those_of_the_pinned_versions(supply):
    text = (ROOT / "constraints-hashed.txt").read_text().replace("\\\n", "")
    found = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    hashes = {name: rest.split()[1:] for name, rest in found.items()}
    assert [f"{name}=={rest.split()[0]}" for name, rest in found.items()] == (
        supply.pins().splitlines()
    )
    for name, each in hashes.items():
        assert each, name
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", value) for value in each), name


def test_every_licence_is_stated_and_that_of_the_package(supply, listed):
    assert all(licence != "not stated" for _, licence in listed.values())
    for name, (number, licence) in listed.items():
        try:
            if version(name) == number:
                assert supply.licence_of(supply.distribution(name)) == licence, name
        except PackageNotFoundError:
            continue


def test_the_files_of_the_page_are_all_that_is_no_code(supply):
    inside = {
        path
        for folder in ("sr_quant_cli", "recipes")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if path.suffix not in (".py", ".so", ".pyd", ".dylib", ".md") and path.name != "py.typed"
    }
    stated = {path for pattern in supply.FILES for path in ROOT.glob(pattern)}
    assert inside - stated == {ROOT / "sr_quant_cli/recipe/published.toml"}


def test_the_bill_of_materials_has_what_is_installed(supply):
    bill = json.loads(supply.sbom())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {each["name"]: each["version"] for each in bill["components"]}
    assert found["torch"] == version("torch")
    assert found["pyvips-binary"] == version("pyvips-binary")
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])


@pytest.mark.hostile
def test_two_builds_of_a_wheel_are_equal(tmp_path):
    """In two places, at two times, with the compiled kernels."""
    hashes, source = set(), tmp_path / "one"
    for name in ("sr_quant_cli", "recipes"):
        kept_out = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, source / name, ignore=kept_out)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(source, tmp_path / "a place of another length")
    for place in ("one", "a place of another length"):
        source = tmp_path / place
        subprocess.run(
            [*(sys.executable, "-m", "build", "--wheel", "--no-isolation"), "-o", tmp_path / place],
            cwd=source,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            check=True,
            capture_output=True,
        )
        (wheel,) = (tmp_path / place).glob("*.whl")
        hashes.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(hashes) == 1
