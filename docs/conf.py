"""Sphinx: the pages of docs/ and the files at the top as one site, `make docs`.

The source folder is the checkout, so that one relative link works on a code host and on the site.
"""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import django

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"  # which reads nothing of a developer's
django.setup()

project = "Dashtray"
version = release = version_of("dashtray")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

root_doc = "README"
include_patterns = ["*.md", "docs/*.md"]
exclude_patterns = [".*"]

html_theme = "furo"
html_title = "Dashtray"
html_extra_path = ["site"]  # index.html leads to the front page
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3  # what a link to `page.md#heading` may name
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False

#: The navigation: a caption, and pages of docs/ under it.
CHAPTERS = {
    "Encrypted fields": [
        "orm-paths",
        "settings",
        "rotating-keys",
        "blind-indexes",
        "moving-over",
        "comparison",
        "troubleshooting",
        "api",
    ],
    "Security": [
        "token-formats",
        "threat-model",
        "compliance",
        "fuzzing",
        "mutation",
        "concurrency",
    ],
    "Dashtray": ["rest-api", "deployment"],
    "Inside": ["architecture", "performance"],
}
TOP = ["CONTRIBUTING", "SECURITY", "CHANGELOG"]


def chapters() -> Iterator[tuple[str, list[str]]]:
    """The chapters with the pages that are there; a page that none names comes under "More"."""
    there = {page.stem for page in (ROOT / "docs").glob("*.md")}
    for caption, names in CHAPTERS.items():
        yield caption, [f"docs/{name}" for name in names if name in there]
        there -= set(names)
    yield "More", [f"docs/{name}" for name in sorted(there)] + TOP


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """Give the front page what only the site needs: a README on a code host has no navigation."""
    if page == root_doc:
        for caption, pages in chapters():
            lines = [":hidden:", f":caption: {caption}", "", *(f"/{name}" for name in pages)]
            source[0] += "\n".join(["\n\n```{toctree}", *lines, "```\n"])


def setup(app: Any) -> None:
    app.connect("source-read", add_navigation)
