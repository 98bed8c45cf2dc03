"""The site of docs/: it builds without a warning, is complete, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|icon|preload|preconnect|prefetch)[^>]*href=[\"']?https?:"
    r"|<link\b[^>]*href=[\"']?https?:[^>]*\brel=[\"']?(?:stylesheet|icon|preload|preconnect)",
    re.IGNORECASE,
)
"""Beginnings of HTML that makes a browser load something from another host."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site as .ci/run does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_on_the_site(site):
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")]
    index = [page.with_name("index") if page.stem == "README" else page for page in pages]
    missing = [page for page in index if not (site / page).with_suffix(".html").is_file()]
    assert not missing
    assert "Add a method" in (site / "contributing.html").read_text(encoding="utf-8")
    assert 'href="contributing.html"' in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(site):
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert not [page.name for page, text in texts.items() if LOADED.search(text)]
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"url\([\"']?https?:|@import", style)]


def test_what_other_hosts_serve_is_found():
    for text in (
        '<script src="https://example.org/a.js">',
        "<link href='https://example.org/a.css' rel='stylesheet'>",
        '<link rel="preconnect" href="https://example.org">',
        '<img alt="a" src="//example.org/a.png">',
    ):
        assert LOADED.search(text)
    assert not LOADED.search('<a href="https://example.org">a</a><script src="assets/a.js">')
