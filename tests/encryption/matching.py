"""Whether each row's blind indexes match what its secrets are, computed from the plaintext."""

from typing import Any

from django.db import models

from encryption.binding import layout_of_class
from encryption.conf import get_indexer
from encryption.core import blindindex
from encryption.core.derivation import MasterKey


def index_of(row: models.Model, name: str, master: MasterKey | None = None) -> str | None:
    """What the index of a row has to be under a key (the primary by default)."""
    index: Any = row._meta.get_field(name)
    text = _text(row, index)
    if text is None:
        return None
    layout = layout_of_class(type(row))
    return str(index.of_text(text, layout.current(row), master, layout))


def _text(row: models.Model, index: Any) -> str | None:
    field = index.encrypted
    value = getattr(row, field.name)
    return None if value is None else field.to_text(value)[0]


def expect_indexes(*classes: type[models.Model], filled: bool = True) -> None:
    """Assert that every index of every row matches the row's value, under one key of the ring.

    Args:
        filled: whether none may be missing.
    """
    for cls in classes:
        for row in cls._base_manager.all():
            for index in layout_of_class(cls).indexes:
                _expect(row, index, row.__dict__[index.attname], filled)


def _expect(row: models.Model, index: Any, found: str | None, filled: bool) -> None:
    text = _text(row, index)
    if text is None or found is None:
        assert found is None
        assert text is None or not filled, f"{index.label} is missing"
        return
    master = {key.key_id: key for key in get_indexer().keys}[found[3:11]]
    expected = index_of(row, index.name, master)
    assert expected is not None
    if blindindex.is_absent(expected):
        assert blindindex.is_absent(found), f"{index.label} is of a value that is not there"
    else:
        assert found == expected, f"{index.label} is of another value"
