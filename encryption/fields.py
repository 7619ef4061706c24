"""The model fields: a text or a JSON value, encrypted under the key of the row's tenant."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.core.exceptions import FieldError, ValidationError
from django.db import models
from django.db.models.expressions import Col
from django.db.models.signals import class_prepared
from django.utils.functional import Promise, cached_property
from django.utils.translation import gettext_lazy as _

from encryption import blindlookups, columns, entry, hooks, lookups, promotion
from encryption.binding import Layout, Partial, Values, located
from encryption.conf import get_keyring, get_settings
from encryption.core import tokens
from encryption.core.errors import DecryptionError, EncryptionError, MalformedTokenError
from encryption.descriptors import UNREAD, Ciphertext, EncryptedAttribute, ForeignCiphertext
from encryption.forms import SecretField, SecretJSONField
from encryption.guards import check_beside, check_indexes, check_upsert, is_upsert, placeholder_sql
from encryption.indexes import BlindIndexField, check_collected, note_collected
from encryption.uniqueness import check_insert

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    BaseField = models.Field[Any, Any]
else:
    BaseField = models.Field

__all__ = ["BlindIndexField", "EncryptedField", "EncryptedJSONField", "EncryptedTextField"]

#: What a value could not be turned into text for: an exception class and a message, neither of
#: which holds the value. Returned and not raised, so that the traceback has no frame with it.
Problem = tuple[type[Exception], str]


class EncryptedField(BaseField):
    """What the encrypted fields have in common; use one of its subclasses.

    Args:
        salt_field: name of the field of the same model whose value (a foreign key's id) is the
            tenant.
        bound_to: names of further fields of the row that the value is authenticated with, so
            that its token is worthless in any other row.
        context: what the value is; by default ``app_label.model_name.field_name``. Set it to the
            old label before renaming a model or field.
        allow_plaintext: for the time in which an existing column is adopted: what is no token is
            read as it is. Everything written is encrypted.
    """

    descriptor_class = EncryptedAttribute
    form_class: type[SecretField] = SecretField
    empty_strings_allowed = False
    #: Whether what is encrypted is JSON text.
    holds_json = False
    #: The blind indexes of this field.
    indexes: tuple[BlindIndexField, ...] = ()
    # Changing one of these changes no column, so a migration that does writes no SQL.
    non_db_attrs = (
        *BaseField.non_db_attrs,
        "salt_field",
        "bound_to",
        "context",
        "allow_plaintext",
    )
    # The admin shows the value of a field with choices by way of them: here it never has any.
    flatchoices = (("", ""),)  # type: ignore[assignment]

    def __init__(
        self,
        *args: Any,
        salt_field: str = "",
        bound_to: Sequence[str] = (),
        context: str | None = None,
        allow_plaintext: bool = False,
        **options: Any,
    ) -> None:
        self.salt_field = salt_field
        self.bound_to = (bound_to,) if isinstance(bound_to, str) else tuple(bound_to)
        self.context = context
        self.allow_plaintext = allow_plaintext
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        kwargs["salt_field"] = self.salt_field
        if self.bound_to:
            kwargs["bound_to"] = self.bound_to
        if self.context is not None:
            kwargs["context"] = self.context
        if self.allow_plaintext:
            kwargs["allow_plaintext"] = True
        return name, path, args, kwargs

    def contribute_to_class(self, cls: type[models.Model], name: str, *args: Any) -> None:
        super().contribute_to_class(cls, name, *args)
        self.label = f"{cls._meta.label}.{self.name}"
        self.aad_context = (
            f"{cls._meta.label_lower}.{self.name}" if self.context is None else self.context
        )

    def get_internal_type(self) -> str:
        return "TextField"

    # -- reading ------------------------------------------------------------------------------

    def from_db_value(
        self, value: Any, expression: Any, connection: "BaseDatabaseWrapper"
    ) -> Ciphertext | None:
        if value is None:
            return None
        return Ciphertext(value if type(value) is str else _text_of(value), self)

    def reveal(self, instance: models.Model, secret: Ciphertext) -> Any:
        """Decrypt the secret of an instance, keep the plaintext in it and return it.

        Raises:
            DecryptionError: its message begins with the model, field and primary key.
        """
        layout: Layout = type(instance)._encryption_layout  # type: ignore[attr-defined]
        under = secret._sources
        if under is None:
            under = getattr(instance._state, "encrypted_under", None)
        if type(under) is not tuple:
            if under is None:
                under = self._unloaded_sources(layout, instance)
            elif not layout.knows(self, under):
                # Token and sources have to be of one moment, so they are read together.
                fresh = self._read_again(instance)
                return None if fresh is None else self.reveal(instance, fresh)
        if len(under) != len(layout.attnames):
            if not promotion.is_strange(layout, instance):
                raise _foreign(self.label)
            promotion.adopt(layout, instance)
            return self.reveal(instance, instance.__dict__[self.attname])
        source, place, bound = layout.readers[self.attname]
        salt = under[place]
        salt = str(salt) if type(salt) is source.plain else source.text(salt) or ""
        bound_to = [one.text(under[at]) for one, at in bound] if bound else ()
        text = ""
        try:
            if self.allow_plaintext:
                value, text = self.open(secret.token, salt, bound_to)
            else:
                text = get_keyring().decrypt(secret._token or "", salt, self.aad_context, bound_to)
                value = self.from_text(text)
        except DecryptionError as error:
            text = ""  # a traceback page shows the locals of this frame
            raise located(error, self, instance.pk) from None
        secret._sources = under
        secret._text = text
        secret._value = value
        return value

    def _read_again(self, instance: models.Model) -> Ciphertext | None:
        attribute: EncryptedAttribute = getattr(type(instance), self.attname)
        del instance.__dict__[self.attname]
        attribute.fetch_one(instance)
        fresh: Ciphertext | None = instance.__dict__[self.attname]
        return fresh

    def _unloaded_sources(self, layout: Layout, instance: models.Model) -> Values:
        """The sources of an instance that is not loaded (yet).

        ``__init__`` and ``post_init`` run before ``from_db`` is done, and then the row's values
        are the instance's. For somebody's foreign token they are wrong, and decryption fails.
        """
        under = layout.current(instance)
        if type(under) is Partial:
            raise _foreign(self.label)
        return under

    def open(self, token: str, salt: str, bound_to: Sequence[str | None]) -> tuple[Any, str]:
        """Decrypt a token and return the value, and the text that was encrypted."""
        if self.allow_plaintext and self.is_plaintext(token, salt):
            text = token
        else:
            text = get_keyring().decrypt(token, salt, self.aad_context, bound_to)
        try:
            return self.from_text(text), text
        except BaseException:
            del text  # a traceback page shows the locals of this frame
            raise

    def is_plaintext(self, stored: str, salt: str) -> bool:
        """Under ``allow_plaintext``: say whether a column's text is old plaintext.

        What begins like a v2 token is one. A text of v1's shape (any base64 of 28 bytes, such as
        some API keys) is a token if a key opens it. If none does, it is plaintext, unless v1 is
        what this project writes: then its key may merely be missing, and it is not guessed.
        """
        if tokens.key_id_of(stored):
            return False
        try:
            tokens.parse_v1(stored)
        except MalformedTokenError:
            return True
        if tokens.V1 not in get_settings().read_formats:
            return True
        try:
            get_keyring().decrypt(stored, salt)
        except DecryptionError:
            return get_settings().write_format != tokens.V1
        return False

    def from_text(self, text: str) -> Any:
        """Turn the decrypted text into the value."""
        raise NotImplementedError

    def to_text(self, value: Any) -> tuple[str, Problem | None]:
        """Turn a value into the text to encrypt, or say why that cannot be."""
        raise NotImplementedError

    def new_text(self, secret: Ciphertext) -> tuple[str, Problem | None] | None:
        """The text to encrypt of a secret that was read or assigned, or why that cannot be;
        ``None`` if its token is of this value."""
        raise NotImplementedError

    def is_changed(self, secret: Ciphertext) -> bool:
        """Say whether a secret that was read or assigned differs from its token."""
        return self.new_text(secret) is not None

    # -- writing ------------------------------------------------------------------------------

    def pre_save(self, model_instance: models.Model, add: bool) -> Ciphertext | None:
        """Return what to store: the same ciphertext for as long as neither value nor tenant
        changed, however often Django asks."""
        try:
            secret: Ciphertext | None = model_instance.__dict__[self.attname]
        except KeyError:
            secret = self.stored_in(model_instance)
        if secret is not None:
            secret = self.seal(model_instance, secret)
        if self.indexes:
            note_collected(self, model_instance, secret)
        return secret

    def stored_in(self, instance: models.Model) -> Ciphertext | None:
        """What the instance holds: its ciphertext, loaded first where it was deferred."""
        if self.attname not in instance.__dict__:
            attribute: EncryptedAttribute = getattr(type(instance), self.attname)
            return attribute.load(instance)
        secret: Ciphertext | None = instance.__dict__[self.attname]
        return secret

    def seal(self, instance: models.Model, secret: Ciphertext) -> Ciphertext | None:
        """Make a secret's token fit its value and the row's sources, and return it.

        ``None`` if it had to be read again and is gone.

        Raises:
            MissingSaltError: the tenant is not set or not saved.
            TypeError, ValueError, FieldError: the value cannot be encrypted.
            DecryptionError: the sources changed and the old token cannot be read.
        """
        layout: Layout = type(instance)._encryption_layout  # type: ignore[attr-defined]
        under: Values = instance._state.__dict__.get("encrypt_under") or layout.current(instance)
        if secret._value is not UNREAD and self._encrypt_new(layout, instance, secret, under):
            return secret
        if secret._sources != under or self.allow_plaintext:
            if promotion.is_strange(layout, instance):
                promotion.adopt(layout, instance)
                secret = instance.__dict__[self.attname]
            self._keep_or_rebind(layout, instance, secret, under)
            if instance.__dict__.get(self.attname, secret) is None:
                return None
        return secret

    def _encrypt_new(
        self, layout: Layout, instance: models.Model, secret: Ciphertext, under: Values
    ) -> bool:
        """Encrypt a value that was read or assigned; return False if its token is of it."""
        new = self.new_text(secret)
        if new is None:
            return False
        try:
            problem = new[1]
            if type(under) is Partial:
                under = under.filled(layout.loaded(instance) or under)
            salt, keyring = layout.salt(self, under), get_keyring()
            bound = layout.bound(self, under) if self.bound_to else ()
            if problem is None:
                try:
                    secret._token = keyring.encrypt(new[0], salt, self.aad_context, bound)
                except ValueError as error:
                    problem = ValueError, str(error)
                else:
                    secret._text = new[0]
                    secret._sources = under
                    return True
        finally:
            del new  # a traceback page shows the locals of this frame
        raise problem[0](f"{self.label}: {problem[1]}")

    def _keep_or_rebind(
        self, layout: Layout, instance: models.Model, secret: Ciphertext, under: Values
    ) -> None:
        state = instance._state.__dict__
        known: Values | None = secret._sources or state.get("encrypted_under")
        strange = self.attname not in state.get("loaded_secrets", (self.attname,))
        if known is None or (secret._sources is None and strange):
            raise _foreign(self.label)
        if len(known) != len(layout.attnames):
            raise _foreign(self.label)
        salt_place, bound_places = layout.places[self.attname]
        places = (salt_place, *bound_places)
        if type(known) is Partial and layout.unsure(known, under, places):
            # Token and sources have to be of one moment, so they are read together.
            fresh = self._read_again(instance)
            if fresh is None:
                return  # somebody cleared it meanwhile
            instance.__dict__[self.attname] = secret
            secret._value, secret._text = UNREAD, None
            secret._token, secret._sources = fresh._token, fresh._sources
            known = secret._sources or known
        if not tokens.key_id_of(secret.token):
            places = (salt_place,)  # a v1 token is bound to its tenant and to nothing else
        plain = self.allow_plaintext and self.is_plaintext(
            secret.token, layout.salt(self, layout.loaded(instance) or known)
        )
        if not plain and not layout.changed(known, under, places):
            secret._sources = known
            return
        if type(known) is Partial:
            known = known.filled(layout.loaded(instance) or known)
        if type(under) is Partial:
            under = under.filled(known)
        moved = self.resealed(layout, instance, secret, known, under)
        secret._token, secret._sources = moved._token, moved._sources

    def resealed(
        self,
        layout: Layout,
        instance: models.Model,
        secret: Ciphertext,
        known: Values,
        under: Values,
    ) -> Ciphertext:
        """Decrypt a token under one set of source values and encrypt it under another.

        Raises:
            DecryptionError, MissingSaltError: and nothing changed.
        """
        salt, bound, keyring = layout.salt(self, under), layout.bound(self, under), get_keyring()
        was = layout.salt(self, known), layout.bound(self, known)
        try:
            token = keyring.encrypt(self.open(secret.token, *was)[1], salt, self.aad_context, bound)
        except DecryptionError as error:
            raise located(error, self, instance.pk) from None
        moved = Ciphertext(token, self)
        moved._sources = under
        return moved

    def get_db_prep_save(self, value: Any, connection: "BaseDatabaseWrapper") -> Any:
        """Let through what was encrypted for its row, and nothing else.

        Raises:
            FieldError: a value or an expression came without a row.
        """
        if isinstance(value, Ciphertext):
            if value._sources is not None:
                return value._token
        elif value is None or lookups.is_sealed(value):
            return value
        del value  # a traceback page shows the locals of this frame
        raise FieldError(
            f"{self.label} is encrypted for its row, and this value came without one: from "
            "update(), from bulk_update() without EncryptedManager, or from a default in a "
            "migration. Nothing was written. Assign the value to the instances and save() them, "
            "or use bulk_update() with `objects = EncryptedManager()`. To add the field to a "
            "table with rows, add it with null=True and fill it from a RunPython migration."
        )

    # Django 5.2 asks for get_placeholder, newer releases for get_placeholder_sql.

    def get_placeholder(self, value: Any, compiler: Any, connection: "BaseDatabaseWrapper") -> str:
        if is_upsert(compiler.query):
            check_upsert(self, compiler.query, connection)
        if self.indexes:
            self._check_indexes(compiler.query, connection)
        return "%s"

    def get_placeholder_sql(
        self, value: Any, compiler: Any, connection: "BaseDatabaseWrapper"
    ) -> tuple[str, Any]:
        if is_upsert(compiler.query):
            check_upsert(self, compiler.query, connection)
        if self.indexes:
            self._check_indexes(compiler.query, connection)
        return placeholder_sql(value, compiler)

    def _check_indexes(self, query: Any, connection: "BaseDatabaseWrapper") -> None:
        check_indexes(self, query)
        for one in query.update_fields if is_upsert(query) else ():
            if "_unique_beside" in one.__dict__:  # Django asks no placeholder of an expression
                check_beside(one, query, connection)
        check_collected(self, query)
        for index in self.indexes:
            check_insert(index, query, connection.alias)

    # -- queries ------------------------------------------------------------------------------

    def get_lookup(self, lookup_name: str) -> Any:
        if self.indexes:
            return blindlookups.lookup_for(self, lookup_name)
        return lookups.lookup_for(self, lookup_name)

    def get_transform(self, lookup_name: str) -> Any:
        if self.indexes:
            return blindlookups.transform_for(self, lookup_name)
        raise lookups.refusal(self.label, f"{lookup_name!r}")

    def get_col(self, alias: str, output_field: Any = None) -> Col:
        if output_field is None or output_field == self:
            if alias == self.model._meta.db_table:
                return self.cached_col
            return columns.EncryptedCol(alias, self)
        return Col(alias, self, output_field)

    @cached_property
    def cached_col(self) -> Col:
        return columns.EncryptedCol(self.model._meta.db_table, self)

    # -- forms and serialisation --------------------------------------------------------------

    def value_from_object(self, obj: models.Model) -> Any:
        """Give forms and serialisers the ciphertext, never the plaintext."""
        secret = self.stored_in(obj)
        return None if secret is None else secret.detached()

    def value_to_string(self, obj: models.Model) -> Any:
        """Return the token, as ``dumpdata`` writes it."""
        secret = self.pre_save(obj, False)
        return None if secret is None else secret.token

    def run_validators(self, value: Any) -> None:
        """Run the field's validators; a message that quotes the value is replaced."""
        try:
            super().run_validators(value)
        except ValidationError as error:
            quiet = [
                ValidationError(_("Enter a valid value."), code="invalid")
                if entry.echoes(message, value)
                else ValidationError(message, code=one.code)
                for one in error.error_list
                for message in one.messages
            ]
        else:
            return
        raise ValidationError(quiet)

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        if isinstance(value, str) and entry.is_repr(value):
            # A form field of somebody's own rendered the ciphertext, and sends that back.
            raise ValidationError(entry.MESSAGES["mask"], code="mask")

    def save_form_data(self, instance: models.Model, data: Any) -> None:
        """Keep the stored value when the form hands back what it was given."""
        if not isinstance(data, Ciphertext):
            super().save_form_data(instance, data)

    def formfield(self, **kwargs: Any) -> "forms.Field | None":
        """Return a form field that takes a secret and never shows one."""
        form_class = kwargs.setdefault("form_class", self.form_class)
        if issubclass(form_class, SecretField):
            kwargs.setdefault("nullable", self.null)  # offers the box that clears
        return super().formfield(**kwargs)


def _foreign(label: str) -> EncryptionError:
    return EncryptionError(
        f"{label} holds a Ciphertext of another row. A token is readable only in the row it was "
        "encrypted for: assign the plaintext, ciphertext.decrypt(salt), instead."
    )


def _text_of(value: Any) -> str:
    """What a column of another type holds, as a text that is no token and says so when read."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "replace")
    return str(value)


class EncryptedTextField(EncryptedField):
    """A text, encrypted. ``None`` is NULL; ``""`` is a value and is encrypted."""

    description = _("Encrypted text")

    def from_text(self, text: str) -> str:
        return text

    def to_text(self, value: Any) -> tuple[str, Problem | None]:
        if type(value) is str:
            return value, None
        if isinstance(value, str):
            return str.__str__(value), None  # a member of an enumeration, say: what it stores
        if isinstance(value, Promise):
            return str(value), None
        if hasattr(value, "resolve_expression"):
            return "", _expression_problem()
        if isinstance(value, ForeignCiphertext):
            return "", (EncryptionError, str(_foreign("it")))
        return "", (TypeError, f"the value is a text, not {type(value).__name__}")

    def new_text(self, secret: Ciphertext) -> tuple[str, Problem | None] | None:
        if secret._token is not None and secret._value == secret._text:
            return None
        return self.to_text(secret._value)

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        # Not in to_python: a deserializer quotes the value that to_python refuses.
        if value is not None and not isinstance(value, (str, Ciphertext)):
            raise ValidationError(_("Enter a text."), code="invalid")


_JSON_OPTIONS: Final[dict[str, Any]] = {
    "ensure_ascii": False,
    "separators": (",", ":"),
    "allow_nan": False,
}
# json.dumps and json.loads with any option make an encoder or decoder for every value.
_dumps: Final = json.JSONEncoder(**_JSON_OPTIONS).encode
_loads: Final = json.JSONDecoder().decode


class OwnText(str):
    """JSON text as this field spells it: of two such, one value has one text."""

    __slots__ = ()


class EncryptedJSONField(EncryptedField):
    """Any JSON value, encrypted as a whole, keys included. ``None`` is NULL.

    Args:
        encoder: a ``json.JSONEncoder`` subclass, as on ``JSONField``.
        decoder: a ``json.JSONDecoder`` subclass, as on ``JSONField``.
    """

    description = _("Encrypted JSON")
    form_class = SecretJSONField
    holds_json = True

    def __init__(
        self,
        *args: Any,
        encoder: type[json.JSONEncoder] | None = None,
        decoder: type[json.JSONDecoder] | None = None,
        **options: Any,
    ) -> None:
        if encoder is not None and not callable(encoder):
            raise ValueError("The encoder parameter must be a callable object.")
        if decoder is not None and not callable(decoder):
            raise ValueError("The decoder parameter must be a callable object.")
        self.encoder = encoder
        self.decoder = decoder
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        if self.encoder is not None:
            kwargs["encoder"] = self.encoder
        if self.decoder is not None:
            kwargs["decoder"] = self.decoder
        return name, path, args, kwargs

    def from_text(self, text: str) -> Any:
        try:
            return _loads(text) if self.decoder is None else json.loads(text, cls=self.decoder)
        except ValueError:
            pass
        del text
        raise MalformedTokenError(
            f"{self.label}: what was encrypted is not JSON. It was written by another kind of "
            "field; write a new value."
        )

    def to_text(self, value: Any) -> tuple[str, Problem | None]:
        if hasattr(value, "resolve_expression"):
            return "", _expression_problem()
        if isinstance(value, ForeignCiphertext):
            return "", (EncryptionError, str(_foreign("it")))
        try:
            return OwnText(self.dumps(value)), None
        except TypeError as error:
            told = re.fullmatch(r"Object of type \w+ is not JSON serializable", str(error))
            return "", (TypeError, told[0] if told else "the value is not JSON serializable")
        except (ValueError, RecursionError):
            return "", (ValueError, "the value holds NaN, an infinity or a circle: JSON has none")

    def dumps(self, value: Any) -> str:
        """The JSON text that is encrypted: compact, not escaped, no NaN."""
        if self.encoder is None:
            return _dumps(value)
        return json.dumps(value, cls=self.encoder, **_JSON_OPTIONS)

    def new_text(self, secret: Ciphertext) -> tuple[str, Problem | None] | None:
        text, problem = self.to_text(secret._value)
        before = secret._text
        if secret._token is None or before is None or problem is not None:
            return text, problem
        if text != before and type(before) is not OwnText:
            # What another program wrote may be spelt another way and still be the same value.
            secret._text = before = OwnText(self.dumps(self.from_text(before)))
        return None if text == before else (text, problem)

    def formfield(self, **kwargs: Any) -> "forms.Field | None":
        if issubclass(kwargs.get("form_class", self.form_class), SecretJSONField):
            kwargs = {"encoder": self.encoder, "decoder": self.decoder, **kwargs}
        return super().formfield(**kwargs)

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        if self.to_text(value)[1] is not None:
            raise ValidationError(_("Enter a valid JSON."), code="invalid")


def _expression_problem() -> Problem:
    return FieldError, (
        "an expression is computed by the database, which has no key. Assign the value itself."
    )


def _on_class_prepared(sender: type[models.Model], **kwargs: object) -> None:
    if not _lacks_its_key(sender):
        hooks.install(sender, EncryptedField)


def _lacks_its_key(model: type[models.Model]) -> bool:
    """Say whether fields of the primary key are missing, so that no row can be told from another.

    For the migrations of others, ``migrate`` makes the models of an app without migrations anew,
    without their foreign keys.
    """
    key = model._meta.pk
    if not isinstance(key, models.CompositePrimaryKey):
        return False
    names = {name for field in model._meta.fields for name in (field.name, field.attname)}
    return not names.issuperset(key.field_names)


class_prepared.connect(_on_class_prepared, dispatch_uid="encryption.fields")
