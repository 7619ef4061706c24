"""Links to other sites have the shape of one; `make docs` checks those inside the documentation."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import PAGES, ROOT

#: `[text](path "test_name")`: what is said, and the test that holds it.
HELD = re.compile(r'\]\(\.\./(tests/[\w/]+\.py) "(\w+)"\)')
LINK = re.compile(r"(?:\]\(|<)([a-z]+:[^)>]*)[)>]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_other_sites_are_well_formed(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        address = urlsplit(link)
        assert not re.search(r"\s", link), link
        if address.hostname == "127.0.0.1":  # the site that `make run` starts
            continue
        assert address.scheme == "https", link
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", address.hostname or ""), link
        assert (address.username, address.password, address.port) == (None, None, None), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(HELD.findall(text)) == text.count("](../tests/")
    for file, name in HELD.findall(text):
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), (file, name)
