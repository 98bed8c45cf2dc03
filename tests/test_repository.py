"""Files for GitHub, Docker and citation: they parse, and say what the project says elsewhere."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from sr_quant_cli import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def loaded(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def steps(path):
    return [step for job in loaded(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_tags_that_there_are(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    for name in used:
        # cibuildwheel has no tags of major versions.
        version = r"v\d+\.\d+\.\d+" if name.startswith("pypa/cibuildwheel@") else r"v\d+"
        assert re.fullmatch(rf"[\w-]+/[\w-]+@{version}", name)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_ask_for_no_more_than_they_need(path):
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    writing = [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert writing == (["release"] if path.name == "release.yml" else [])


def test_the_matrix_has_the_versions_and_systems_of_the_documentation():
    matrix = loaded(".github/workflows/ci.yml")["jobs"]["quick"]["strategy"]["matrix"]
    page = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
    stated = re.search(r"needs Python ([\d., or]+)", page)[1]
    assert matrix["python"] == re.findall(r"3\.\d+", stated)
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert matrix["include"] == [
        {"os": "ubuntu-latest", "python": matrix["python"][0], "dependencies": "lowest"}
    ]


def test_ci_runs_what_developers_run():
    runs = [step["run"] for step in steps(".github/workflows/ci.yml") if "run" in step]
    assert "bash .ci/run" in runs
    assert 'python -m pytest -m "not slow"' in runs
    assert "mkdocs build --strict" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_a_release_is_refused_if_its_tag_is_not_the_version():
    runs = [step.get("run", "") for step in steps(".github/workflows/release.yml")]
    (check,) = (run for run in runs if "__version__" in run)
    expression = re.search(r"sed -n 's/(.+)/\\1/p' (\S+)\)", check)
    pattern = expression[1].replace(r"\(", "(").replace(r"\)", ")")
    found = re.search(pattern, (ROOT / expression[2]).read_text(encoding="utf-8"), re.MULTILINE)
    assert found[1] == __version__


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_have_what_github_asks_for(path):
    form = loaded(path)
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "checkboxes"}
        assert field["attributes"]["label"]


def test_the_citation_has_the_version_and_the_licence():
    citation = loaded("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert {"title", "message", "authors"} <= citation.keys()


def test_extras_are_on_the_page_on_installing():
    page = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(PROJECT["optional-dependencies"])


def test_the_test_extra_builds_the_site():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["test"])


def test_the_image_gets_what_it_copies():
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    assert {"constraints.txt", *re.findall(r"^COPY (?!\.)(\S+)", docker, re.MULTILINE)} <= kept
    for needed in (PROJECT["readme"], *PROJECT["license-files"], "hatch_build.py", "recipes"):
        assert needed in kept
    assert all((ROOT / name).exists() for name in kept)
    assert docker.index("\nUSER srq\n") < docker.index("\nENTRYPOINT")


def test_the_changelog_has_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(name for name in re.findall(r"^## \[(.+)\]", text, re.M) if name != "Unreleased")
    assert newest == __version__
