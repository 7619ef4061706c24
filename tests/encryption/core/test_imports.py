"""The core can be read, tested and audited without a framework.

import-linter says the same of what is imported where; this reads the source itself, so that an
import hidden in a function or named in a string is found too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import encryption.core

FRAMEWORKS = {"django", "rest_framework", "celery"}
MODULES = sorted(Path(encryption.core.__file__).parent.glob("*.py"))


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, level=level):
                yield "." * level + (module or "")
            case ast.Call(func=ast.Name(id="__import__" | "import_module" | "import_string")):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr="import_module")):
                yield ast.unparse(node)


def allowed(name: str) -> bool:
    package = name.partition(".")[0]
    if package == "encryption":
        return name.startswith("encryption.core.") or name == "encryption.core"
    return package not in FRAMEWORKS and name.isidentifier() | ("." in name and "(" not in name)


def test_the_modules_are_found() -> None:
    assert {"tokens.py", "derivation.py", "keyring.py"} < {path.name for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_of_the_core_imports_no_framework(path: Path) -> None:
    found = set(imports(path.read_text(encoding="utf-8")))
    assert {name for name in found if not allowed(name)} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import django",
        "import os, django.conf",
        "from django import conf",
        "from encryption import conf",
        "from encryption.conf import get_keyring",
        "def f():\n    from rest_framework.fields import Field",
        "import importlib\nimportlib.import_module('django')",
        "__import__('celery')",
    ],
)
def test_the_reader_overlooks_nothing(source: str) -> None:
    assert not all(map(allowed, imports(source)))


def test_the_package_says_that_it_is_typed() -> None:
    """PEP 561: a type checker reads the annotations of a package that has this file."""
    assert (Path(encryption.core.__file__).parents[1] / "py.typed").is_file()
