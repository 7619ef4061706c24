"""``BlindIndexField``: a column with a keyed digest of an encrypted column's value beside it.

The index is computed from the plaintext whenever a new token is written, and travels with that
token: an instance remembers which index belongs to which token (``_state.blind_indexes``), so a
save that writes the same token back writes the same index back, and decrypts nothing.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import models
from django.db.models.expressions import Col
from django.db.models.query_utils import DeferredAttribute
from django.db.models.sql.subqueries import InsertQuery
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from encryption import lookups
from encryption.binding import MISSING, Layout, Partial, Values, layout_of, layout_of_class, located
from encryption.conf import get_indexer
from encryption.core import blindindex
from encryption.core.derivation import MasterKey
from encryption.core.errors import DecryptionError
from encryption.descriptors import UNREAD, Ciphertext
from encryption.guards import check_index_update, placeholder_sql
from encryption.indexcolumns import LOOKUPS, IndexCol
from encryption.normalizers import Normalizer, find, message_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from encryption.fields import EncryptedField

    BaseField = models.CharField[Any, Any]
else:
    BaseField = models.CharField

#: Between the keys of a path, as in ``filter(credentials__oauth__token=...)``.
SEPARATOR = "__"


class Index(str):
    """An index that was computed here, or read from the database; any other text is refused."""

    __slots__ = ()


class IndexAttribute(DeferredAttribute):
    """The attribute of an index: read as it is, and set by this package only."""

    field: "BlindIndexField"

    def __set__(self, instance: models.Model, value: Any) -> None:
        if value is not None and type(value) is not Index:
            raise FieldError(
                f"{self.field.label} is computed from {self.field.source!r} when the row is "
                "saved. Assign that, and leave this out."
            )
        instance.__dict__[self.field.attname] = value


class BlindIndexField(BaseField):
    """A column by which an encrypted value can be found, and forbidden to stand twice.

    Args:
        source: name of the encrypted field of the same model.
        path: key of the value within the source's JSON, keys of inner objects after ``__``.
        normalize: how values are made alike first: ``"casefold"``, ``"strip"``, ``"nfc"``, the
            dotted path of a function, or a function that migrations can import.
        scope: ``"tenant"``, or ``"global"`` to find a value across tenants, which tells whoever
            reads the database that two tenants have the same.
        bits: keep so many bits of the digest only (4 to 256), so that values share an index.

    The column is NULL where the source is, and in rows that were there before the field was
    added: ``rotate_master_key`` fills it.
    """

    description = _("Blind index of an encrypted field")
    descriptor_class = IndexAttribute
    is_blind_index = True
    #: Whether a unique constraint is about it.
    is_in_rule = False

    def __init__(
        self,
        source: str,
        *,
        path: str | None = None,
        normalize: "str | Normalizer | None" = None,
        scope: str = blindindex.TENANT,
        bits: int | None = None,
        **options: Any,
    ) -> None:
        self.source = source
        self.path = path
        self.normalize = normalize
        self.scope = scope
        self.bits = bits
        options = {"db_index": not options.get("unique", False), **options}
        forced = {"max_length": blindindex.LENGTH, "null": True, "blank": True, "editable": False}
        super().__init__(**{**options, **forced})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        if path == f"{__name__}.{BlindIndexField.__name__}":
            path = f"encryption.fields.{BlindIndexField.__name__}"  # where it is imported from
        for forced in ("max_length", "null", "blank", "editable", "db_index"):
            kwargs.pop(forced, None)
        db_index = bool(self.db_index)  # type: ignore[attr-defined]
        if db_index is bool(self.unique):
            kwargs["db_index"] = db_index
        kwargs["source"] = self.source
        if self.scope != blindindex.TENANT:
            kwargs["scope"] = self.scope
        for option in ("path", "normalize", "bits"):
            if (value := getattr(self, option)) is not None:
                kwargs[option] = value
        return name, path, args, kwargs

    def contribute_to_class(self, cls: type[models.Model], name: str, *args: Any) -> None:
        super().contribute_to_class(cls, name, *args)
        self.label = f"{cls._meta.label}.{self.name}"

    @cached_property
    def encrypted(self) -> "EncryptedField":
        """The encrypted field that this is an index of.

        Raises:
            ImproperlyConfigured: there is no such field; a system check says so too.
        """
        found = {field.name: field for field in self.model._meta.local_concrete_fields}
        field: Any = found.get(self.source)
        if not hasattr(field, "salt_field"):
            raise ImproperlyConfigured(
                f"{self.label} is an index of {self.source!r}, which is no encrypted field of "
                "this model."
            )
        return field  # type: ignore[no-any-return]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the path; none for the whole value."""
        return () if self.path is None else tuple(self.path.split(SEPARATOR))

    @property
    def is_truncated(self) -> bool:
        """Whether different values may have the same index."""
        return self.bits is not None and self.bits < blindindex.MOST_BITS

    # -- the column ---------------------------------------------------------------------------

    def db_type(self, connection: "BaseDatabaseWrapper") -> str | None:
        """As ``CharField``; on PostgreSQL under its long name.

        For a "varchar" Django makes a second index, for LIKE, which nothing here would use.
        """
        if connection.vendor == "postgresql":
            return f"character varying({self.max_length})"
        return super().db_type(connection)

    def db_parameters(self, connection: "BaseDatabaseWrapper") -> Any:
        """Compared byte for byte in every database: an index tells upper from lower case."""
        collation = {"postgresql": "C", "mysql": "ascii_bin"}.get(connection.vendor)
        return {**super().db_parameters(connection), "collation": collation}

    def from_db_value(
        self, value: Any, expression: Any, connection: "BaseDatabaseWrapper"
    ) -> Index | None:
        return None if value is None else Index(value)

    def to_python(self, value: Any) -> Any:
        """Take what ``dumpdata`` wrote for an index; anything else stays what it is."""
        if isinstance(value, str) and blindindex.is_index(value):
            return Index(value)
        return value

    def get_prep_value(self, value: Any) -> Any:
        """Compare with an index only: nobody else's text is one, and would find nothing.

        Raises:
            FieldError: it is none.
        """
        if value is None or hasattr(value, "resolve_expression"):
            return value
        if isinstance(value, str) and blindindex.is_index(value):
            return str.__str__(value)
        del value  # a traceback page shows the locals of this frame
        raise FieldError(
            f"{self.label} holds indexes, and this is none. To look a value up, filter by "
            f"{self.source!r}."
        )

    def get_db_prep_save(self, value: Any, connection: "BaseDatabaseWrapper") -> Any:
        """Let through what was computed for its row, and nothing else.

        Raises:
            FieldError: it came from elsewhere.
        """
        if value is None or lookups.is_sealed(value):
            return value
        if type(value) is Index:
            return str.__str__(value)
        del value  # a traceback page shows the locals of this frame
        raise FieldError(
            f"{self.label} is computed from {self.source!r} when the row is saved, and this value "
            "was not. Nothing was written. Assign to that field and save(), or use bulk_update() "
            "with `objects = EncryptedManager()`."
        )

    def get_lookup(self, lookup_name: str) -> Any:
        """Compare whole indexes, or with NULL.

        Raises:
            FieldError: for any other lookup.
        """
        if lookup_name in LOOKUPS:
            return LOOKUPS[lookup_name]
        raise FieldError(
            f"{self.label} holds indexes, which are equal or not, so the lookup {lookup_name!r} "
            f"cannot work on it. To look a value up, filter by {self.source!r}."
        )

    def get_transform(self, lookup_name: str) -> Any:
        """Refuse every transform.

        Raises:
            FieldError: always.
        """
        raise FieldError(f"{self.label} holds indexes, and {lookup_name!r} cannot work on it.")

    def get_col(self, alias: str, output_field: Any = None) -> Col:
        """The column in a query, which looks at what it is compared with."""
        if output_field is None or output_field == self:
            if alias == self.model._meta.db_table:
                return self.cached_col
            return IndexCol(alias, self)
        return Col(alias, self, output_field)

    @cached_property
    def cached_col(self) -> Col:
        return IndexCol(self.model._meta.db_table, self)

    # Django 5.2 asks for get_placeholder, newer releases for get_placeholder_sql.

    def get_placeholder(self, value: Any, compiler: Any, connection: "BaseDatabaseWrapper") -> str:
        check_index_update(self, compiler.query)
        return "%s"

    def get_placeholder_sql(
        self, value: Any, compiler: Any, connection: "BaseDatabaseWrapper"
    ) -> tuple[str, Any]:
        check_index_update(self, compiler.query)
        return placeholder_sql(value, compiler)

    def value_to_string(self, obj: models.Model) -> Any:
        """Return the index that belongs to the token, as ``dumpdata`` writes both."""
        value = self.pre_save(obj, False)
        return None if value is None else str.__str__(value)

    # -- computing ----------------------------------------------------------------------------

    def pre_save(self, model_instance: models.Model, add: bool) -> Index | None:
        """Return the index of what the instance holds, however often Django asks."""
        values = model_instance.__dict__
        partial = "encrypt_under" in model_instance._state.__dict__
        if partial and not add and self.encrypted.attname not in values:
            return values.get(self.attname)  # what a partial save writes is settled there
        secret = self.encrypted.stored_in(model_instance)
        if secret is not None:
            secret = self.encrypted.seal(model_instance, secret)
        index = self.of(model_instance, secret)
        if add and secret is not None and self.is_in_rule and len(get_indexer().keys) > 1:
            # All new rows have theirs under one key, so the database sees those that are equal.
            with suppress(DecryptionError):
                index = self.computed(model_instance, secret)
        self.remember(model_instance, secret, index)
        return index

    def remember(
        self, instance: models.Model, secret: Ciphertext | None, index: Index | None
    ) -> None:
        """Note on the instance which index belongs to the token that it holds."""
        state: Any = instance._state
        token = None if secret is None else secret._token
        state.blind_indexes = {**_known(instance), self.attname: (token, index)}
        instance.__dict__[self.attname] = index

    def of(self, instance: models.Model, secret: Ciphertext | None) -> Index | None:
        """Return the index of a secret that was sealed for this instance.

        Raises:
            DecryptionError: it has to be computed from a stored token that cannot be read.
        """
        if secret is None:
            return None
        token, index = _known(instance).get(self.attname, (None, None))
        if token == secret._token and index is not None:
            return index
        try:
            return self.computed(instance, secret)
        except DecryptionError:
            if token == secret._token:
                return None  # it had none before, and a rotation will tell of the row
            raise

    def computed(self, instance: models.Model, secret: Ciphertext) -> Index:
        """Compute the index of a sealed secret, decrypting it where it is not known.

        Raises:
            DecryptionError: its message begins with the model, field and primary key.
        """
        under = self._under(instance, secret)
        return self.of_text(self.text_in(instance, secret), under, layout=layout_of(instance))

    def text_in(self, instance: models.Model, secret: Ciphertext) -> str:
        """Return the text that a sealed secret of an instance was encrypted from.

        Raises:
            DecryptionError: its message begins with the model, field and primary key.
        """
        if secret._value is not UNREAD and secret._text is not None:
            return secret._text
        layout, field = layout_of(instance), self.encrypted
        under = self._under(instance, secret)
        try:
            salt, bound = layout.salt(field, under), layout.bound(field, under)
            return field.open(secret.token, salt, bound)[1]
        except DecryptionError as error:
            raise located(error, field, instance.pk) from None

    def _under(self, instance: models.Model, secret: Ciphertext) -> Values:
        layout = layout_of(instance)
        under = (
            secret._sources
            or instance._state.__dict__.get("encrypted_under")
            or layout.current(instance)
        )
        if type(under) is Partial:
            under = under.filled(layout.loaded(instance) or under)
        return under

    def of_text(
        self,
        text: str,
        under: Values,
        master: MasterKey | None = None,
        layout: Layout | None = None,
    ) -> Index:
        """Compute the index of an encrypted text for the row with these source values.

        Args:
            master: under which key; the primary by default.
            layout: whose sources they are; those of the index's own class by default. A class that
                inherits from several has them in other places.
        """
        try:
            message = self.message_of_text(text)
            if message is None:
                return Index(blindindex.absent((master or get_indexer().keys[0]).key_id))
            return self.of_message(message, self.salt(under, layout), master)
        except BaseException:
            del text  # a traceback page shows the locals of this frame
            raise

    def salt(self, under: Values, layout: Layout | None = None) -> str | None:
        """The salt that the index of a row with these source values is derived with.

        Args:
            layout: as for :meth:`of_text`.
        """
        if self.scope != blindindex.TENANT:
            return None
        return (layout or layout_of_class(self.model)).salt(self.encrypted, under)

    def knows_salt(self, under: Values, layout: Layout) -> bool:
        """Say whether what :meth:`salt` reads is not missing among these source values."""
        place, _ = layout.places[self.encrypted.attname]
        return self.scope != blindindex.TENANT or (place >= 0 and under[place] is not MISSING)

    def of_message(
        self, message: bytes, salt: str | None, master: MasterKey | None = None
    ) -> Index:
        """Return the index of a value, see :meth:`message_of_text`."""
        return Index(
            get_indexer().index(
                message,
                scope=self.scope,
                context=self.encrypted.aad_context,
                path=self.path,
                salt=salt,
                bits=self.bits or blindindex.MOST_BITS,
                master=master,
            )
        )

    def message_of_text(self, text: str) -> bytes | None:
        """Return what is digested of an encrypted text; ``None`` where there is no value."""
        value: Any = text
        if self.encrypted.holds_json:
            value = json.loads(text)
            for key in self.keys:
                value = _member(value, key)
        return self.message(value)

    def message(self, value: Any) -> bytes | None:
        """Return what is digested of a value; ``None`` if it is one that is not indexed."""
        if value is not None and self.normalize is not None:
            value = find(self.normalize)(value)
        return None if value is None else message_of(value)

    def message_in(self, instance: models.Model) -> bytes | None:
        """Return what is digested of an instance's value; ``None`` where there is none.

        Raises:
            DecryptionError: it cannot be read.
        """
        secret = self.encrypted.stored_in(instance)
        return None if secret is None else self.message_of_text(self.text_in(instance, secret))

    def text_to_find(self, value: Any) -> "tuple[str, tuple[type[Exception], str] | None]":
        """Turn a value that is looked for into text, or say why that cannot be."""
        return self.encrypted.to_text(value)

    def message_to_find(self, text: str) -> bytes | None:
        """As :meth:`message_of_text`, for a value that the caller took out of the JSON."""
        return self.message(json.loads(text) if self.encrypted.holds_json else text)


def under_all_keys(index: BlindIndexField, text: str, under: Values, layout: Layout) -> list[Index]:
    """The indexes of an encrypted text under each key of the keyring."""
    return [index.of_text(text, under, master, layout) for master in get_indexer().keys]


def _member(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return value[int(key)]
    return None


def _known(instance: models.Model) -> dict[str, tuple[str | None, Index | None]]:
    known: dict[str, tuple[str | None, Index | None]]
    known = instance._state.__dict__.get("blind_indexes", {})
    return known


def note_collected(
    field: "EncryptedField", instance: models.Model, secret: Ciphertext | None
) -> None:
    """Note which secret Django took from an instance for the statement that it is making."""
    state = instance._state.__dict__
    state["secrets_collected"] = {**state.get("secrets_collected", {}), field.attname: secret}


def check_collected(field: "EncryptedField", query: Any) -> None:
    """Refuse an INSERT of secrets with indexes of others.

    Raises:
        FieldError: the ``pre_save`` of a field has changed a secret between the two.
    """
    if not isinstance(query, InsertQuery) or query.raw:
        return
    done: set[str] = query.__dict__.setdefault("_collected", set())
    if field.attname not in done:  # asked for each row
        done.add(field.attname)
        for row in query.objs:
            secret = row._state.__dict__.get("secrets_collected", {}).get(field.attname)
            check_pair(field, row, secret)


def check_pair(field: "EncryptedField", instance: models.Model, secret: Ciphertext | None) -> None:
    """Refuse to write a secret with the indexes that an instance has for another one."""
    token, known = None if secret is None else secret._token, _known(instance)
    for index in field.indexes:
        if index.attname in known and known[index.attname][0] != token:
            raise FieldError(
                f"{field.label} was changed by another field while the row was being saved, so "
                f"{index.name!r} would be of another value. Nothing was written. Change it "
                "before, in save() or in a handler of pre_save."
            )


def note_loaded(indexes: "Sequence[BlindIndexField]", instance: models.Model) -> None:
    """Note which index was loaded with which token, where both were."""
    values = instance.__dict__
    known = {}
    for index in indexes:
        attname = index.encrypted.attname
        if index.attname in values and attname in values:
            secret = values[attname]
            token = None if secret is None else secret._token
            known[index.attname] = (token, values[index.attname])
    instance._state.blind_indexes = known  # type: ignore[attr-defined]
