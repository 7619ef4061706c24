"""Which classes read and write the same tables: parents, children, siblings and proxies.

A save writes all tables of its class. So a class has to know of every secret that depends on a
column of these tables and stands in a table that it does not know: its child's, a sibling's, that
of what it is a proxy of.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

from django.db import models

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

Model = type[models.Model]

#: The classes that write each table, by the class that the table is of. Weakly held: historical
#: models come and go.
_writers: Final["WeakKeyDictionary[Model, WeakSet[Model]]"] = WeakKeyDictionary()


def register(cls: Model) -> list[Model]:
    """Note a new class; return those that write a table which it writes too, it among them."""
    found = {cls}
    for table in _tables_of(cls):
        writers = _writers.setdefault(table, WeakSet())
        writers.add(cls)
        found.update(writers)
    return list(found)


def secrets_of(cls: Model, field_type: "type[EncryptedField]") -> "list[EncryptedField]":
    """The encrypted fields of a class, inherited ones too."""
    return [field for field in cls._meta.concrete_fields if isinstance(field, field_type)]


def dependents_of(cls: Model, field_type: "type[EncryptedField]") -> "list[EncryptedField]":
    """The encrypted fields of other classes that depend on a column of this one."""
    own = set(cls._meta.concrete_fields)
    found = {
        field
        for table in _tables_of(cls)
        for writer in _writers[table]
        for field in secrets_of(writer, field_type)
        if field not in own and any(source in own for source in sources_of(field))
    }
    return sorted(found, key=lambda field: field.label)


def sources_of(field: "EncryptedField") -> "Iterable[models.Field[Any, Any]]":
    """The fields that an encrypted field depends on, as its own class has them."""
    by_name = {
        name: one for one in field.model._meta.concrete_fields for name in (one.attname, one.name)
    }
    return [by_name[name] for name in (field.salt_field, *field.bound_to) if name in by_name]


def path_to(model: Model, table: Model) -> str:
    """The lookup that leads from a class to the primary key of a table above it.

    A link to a parent need not be the primary key.
    """
    names = []
    while concrete(model) is not concrete(table):
        link: Any = model._meta.get_ancestor_link(table)
        names.append(link.name)
        model = link.remote_field.model
    return "__".join(names) or "pk"


def _tables_of(cls: Model) -> set[Model]:
    return {concrete(one) for one in (cls, *cls._meta.all_parents)}


def concrete(model: Model) -> Model:
    """The class that a proxy is of; any other itself."""
    return model._meta.concrete_model or model
