"""Hooks of MkDocs: navigation of whole folders, and the pages beside docs/."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md")
"""pages of the site that lie beside docs/"""


def on_config(config: MkDocsConfig) -> None:
    """Replace the folders in the navigation by their pages."""
    config.nav = _expanded(config.nav, Path(config.docs_dir))


def _expanded(nav: Any, docs: Path) -> Any:
    if isinstance(nav, list):
        return [_expanded(entry, docs) for entry in nav]
    if isinstance(nav, dict):
        return {title: _expanded(entry, docs) for title, entry in nav.items()}
    if not nav.endswith("/"):
        return nav
    pages = sorted(
        (docs / nav).glob("*.md"), key=lambda page: (page.name != "README.md", page.name)
    )
    return [{_title(page): page.relative_to(docs).as_posix()} for page in pages]


def _title(page: Path) -> str:
    """Heading of a page, up to a colon."""
    return page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").partition(":")[0]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages beside docs/."""
    for name in BESIDE:
        text = (Path(config.docs_dir).parent / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=text.replace("](docs/", "](")))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to pages beside docs/ into links within the site."""

    def inside(link: re.Match[str]) -> str:
        return f"]({link[1]}{link[2].lower()}"

    return re.sub(rf"\]\(\.\./((?:\.\./)*)({'|'.join(map(re.escape, BESIDE))})", inside, markdown)
