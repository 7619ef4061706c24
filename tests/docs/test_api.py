"""docs/api.md names what is public, and all of it is there."""

import re
from importlib import import_module

import pytest

import encryption
from tests.docs.pages import blocks

NAMES = [
    name
    for block in blocks("api.md", "{eval-rst}")
    for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)", block.text, re.MULTILINE)
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_public_is_there_and_described(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    inherited = {base.__doc__ for base in getattr(found, "__mro__", ())[1:]}
    assert found.__doc__
    assert found.__doc__ not in inherited


def test_all_that_the_package_exports_is_on_the_page() -> None:
    assert {f"encryption.{name}" for name in encryption.__all__} == {
        name for name in NAMES if name.count(".") == 1
    }
