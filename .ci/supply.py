r"""Licences, bill of materials and pinned packages of what srq installs and ships.

    python .ci/supply.py licences > docs/licences.md
    python .ci/supply.py sbom > sbom.json
    python .ci/supply.py pins | uv pip compile --no-deps --universal --generate-hashes \
        --custom-compile-command "see .ci/supply.py" - -o constraints-hashed.txt

All follow from the metadata of the installed packages, and from pyproject.toml.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

FILES = {
    "sr_quant_cli/models/*.safetensors": "MIT; trained by this project, on photographs whose "
    "licences [the results](results.md) list",
    "sr_quant_cli/kernels/source/*": "MIT, of this project",
    "sr_quant_cli/report/templates/*": "MIT, of this project",
    "sr_quant_cli/web/static/*": "MIT, of this project",
    "recipes/*.toml": "MIT, of this project; values are those of the papers that each one names",
}
"""Files that ship with srq and are no Python code, with their licences."""

HEAD = """<!-- made by .ci/supply.py -->
# Licences

srq is under the MIT licence. This page lists the licences of the packages that it installs, with
the versions that the tests passed with (`constraints.txt`), and of the files that ship with it. A
machine-readable bill of materials (CycloneDX) of an installation is made by
`python .ci/supply.py sbom`.
"""


def pinned() -> dict[str, str]:
    """Versions in constraints.txt by the names of the packages."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needed(requirements: list[str]) -> set[str]:
    """Names of the packages that requirements install, with all that those need."""
    found: set[str] = set()
    waiting = [each for each in map(Requirement, requirements) if _applies(each, {""})]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found.add(name)
        inner = map(Requirement, package.requires or [])
        waiting += [each for each in inner if _applies(each, {"", *requirement.extras})]
    return found


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def licence_of(package: Distribution) -> str:
    """Licence that the metadata of a package state, in a few words."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classes = [
        entry.rpartition(" :: ")[2]
        for entry in metadata.get_all("Classifier") or []
        if entry.startswith("License ::") and not entry.endswith("OSI Approved")
    ]
    if classes:
        return ", ".join(classes)
    stated = (metadata.get("License") or "").strip().splitlines()
    return stated[0][:60] if stated else "not stated"


def rows(names: set[str]) -> Iterator[str]:
    """Rows of a table, by name."""
    versions = pinned()
    for name in sorted(names & versions.keys()):
        yield f"| {name} | {versions[name]} | {licence_of(distribution(name))} |"


def licences() -> str:
    """Page on the licences."""
    core = needed(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    others = {name for texts in extras.values() for name in needed(texts)} - core
    head = "| Package | Version | Licence |\n| --- | --- | --- |"
    files = [f"| `{pattern}` | {licence} |" for pattern, licence in FILES.items()]
    parts = [
        HEAD,
        "## Packages of every installation\n",
        "\n".join([head, *rows(core)]),
        "\n## Packages of the extras, and for the tests\n",
        "\n".join([head, *rows(others)]),
        "\n## Files of srq\n",
        "\n".join(["| Files | Licence |\n| --- | --- |", *files]),
    ]
    return "\n".join(parts) + "\n"


def sbom() -> str:
    """Bill of materials of the installed packages that srq needs, in CycloneDX 1.5."""
    version = re.search(r'"(.+)"', (ROOT / "sr_quant_cli/__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    components = []
    for name in sorted(needed(PROJECT["dependencies"])):
        package = distribution(name)
        components.append(
            {
                "type": "library",
                "name": name,
                "version": package.version,
                "purl": f"pkg:pypi/{name}@{package.version}",
                "licenses": [{"license": {"name": licence_of(package)}}],
            }
        )
    return (
        json.dumps(
            {
                "bomFormat": "CycloneDX",
                "specVersion": "1.5",
                "version": 1,
                "metadata": {
                    "component": {
                        "type": "application",
                        "name": PROJECT["name"],
                        "licenses": [{"license": {"id": PROJECT["license"]}}],
                    }
                },
                "components": components,
            },
            indent=2,
        )
        + "\n"
    )


def pins() -> str:
    """Requirements of a core installation but torch, whose builds come from several indexes."""
    versions = pinned()
    names = needed(PROJECT["dependencies"]) & versions.keys() - {"torch"}
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(names))


if __name__ == "__main__":
    sys.stdout.write({"licences": licences, "sbom": sbom, "pins": pins}[sys.argv[1]]())
