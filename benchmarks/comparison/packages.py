"""The packages that are compared: what to install, how to give them keys, and their fields."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from django.db import models

Settings = Mapping[str, Any]
#: The columns of a model whose "secret" can be found, and the condition that finds a value.
Search = tuple[Mapping[str, Any], Callable[[str, Any], Mapping[str, Any]]]


@dataclass(frozen=True)
class Package:
    """One package.

    Args:
        name: as on the package index; `requirements` are exact, the package itself first.
        settings: Django's settings for a list of keys of which the first writes. A package without
            a setting for old keys takes the first alone.
        fields: called once the settings are there; makers of a text and of a JSON field.
        module: the package to import, whose files are looked at.
        app: what to add to INSTALLED_APPS.
        rotation: the management command that brings rows to the first key, if there is one.
        search: called with the class of tenants, once the settings are there.
        columns: what else a model needs, by its title.
        python: the version that it needs, if not the running one; it gets the running Django.
        vendor: of its database.
    """

    name: str
    requirements: Sequence[str]
    module: str
    settings: Callable[[Sequence[str], Path], Settings]
    fields: Callable[[], Mapping[str, Callable[..., Any]]]
    app: str = ""
    rotation: str = ""
    search: Callable[[Any], Search] | None = None
    columns: Callable[[str], Mapping[str, Any]] = lambda title: {}
    python: str = ""
    vendor: str = "sqlite"


@dataclass(frozen=True)
class Refused:
    """A package that cannot be tried: what is installed for it, and what is imported then."""

    requirements: Sequence[str]
    module: str

    @property
    def name(self) -> str:
        return self.requirements[0].replace("==", " ")


def fernet_key(key: str) -> str:
    return urlsafe_b64encode(sha256(key.encode()).digest()).decode()


def _ours() -> Mapping[str, Callable[..., Any]]:
    fields = import_module("encryption.fields")

    def text(**options: Any) -> Any:
        return fields.EncryptedTextField(salt_field="tenant", bound_to=("id",), **options)

    def json_(**options: Any) -> Any:
        return fields.EncryptedJSONField(salt_field="tenant", bound_to=("id",), **options)

    return {"text": text, "json": json_}


def _of(module: str, text: str, json_: str = "") -> Callable[[], Mapping[str, Callable[..., Any]]]:
    def fields() -> Mapping[str, Callable[..., Any]]:
        found = import_module(module)
        made = {"text": getattr(found, text)}
        return {**made, "json": getattr(found, json_)} if json_ else made

    return fields


def _cryptography() -> Mapping[str, Callable[..., Any]]:
    encrypt = import_module("django_cryptography.fields").encrypt
    return {
        "text": lambda **options: encrypt(models.TextField(**options)),
        "json": lambda **options: encrypt(models.JSONField(**options)),
    }


def _our_columns(title: str) -> Mapping[str, Any]:
    if title != "Row":
        return {}
    return {"objects": import_module("encryption.managers").EncryptedManager()}


def _our_search(tenant: Any) -> Search:
    fields = import_module("encryption.fields")
    columns = {
        "secret": fields.EncryptedTextField(salt_field="tenant"),
        "index": fields.BlindIndexField("secret"),
    }
    return columns, lambda value, row: {"tenant": row.tenant, "secret": value}


def _field_encryption_search(tenant: Any) -> Search:
    package = import_module("django_field_encryption")
    columns = {"secret": package.EncryptedTextField(), "index": package.BlindIndexField("secret")}
    return columns, lambda value, row: {"index": package.compute_hash(value)}


def _tink_search(tenant: Any) -> Search:
    fields = import_module("tink_fields.fields")
    secret = fields.DeterministicEncryptedTextField(keyset="deterministic")
    return {"secret": secret}, lambda value, row: {"secret": value}


def _searchable_search(tenant: Any) -> Search:
    fields = import_module("encrypted_fields.fields")
    columns = {
        "stored": fields.EncryptedTextField(),
        "secret": fields.SearchField(hash_key="f" * 64, encrypted_field_name="stored"),
    }
    return columns, lambda value, row: {"secret": value}


def _uuid(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"https://comparison.example/{name}"))


def _fieldseal() -> Mapping[str, Callable[..., Any]]:
    encrypted = import_module("fieldseal_django").Encrypted
    numbers = count()

    def text(**options: Any) -> Any:
        # Of the inner field's options it looks at two; the others have to be its own.
        column_uuid = _uuid(f"column {next(numbers)}")
        return encrypted(models.TextField(), column_uuid=column_uuid, **options)

    return {"text": text}


def _fieldseal_columns(title: str) -> Mapping[str, Any]:
    return {"fieldseal": import_module("fieldseal_django").FieldsealMeta(table_uuid=_uuid(title))}


def _fieldseal_search(tenant: Any) -> Search:
    package = import_module("fieldseal_django")
    index = package.BlindIndex(projected_population=100_000)
    text = package.Encrypted(models.TextField(), column_uuid=_uuid("searched"), index=index)
    columns = {"secret": text, "secret_bidx": package.Encrypted.index_column("secret")}
    import_module("fieldseal_django.apps").reset_client()  # which knows the models of its start
    return columns, lambda value, row: {"secret": value}


class _Unwrapped:
    """What stands for a KMS: the keys are not wrapped."""

    async def unwrap(self, wrapped: bytes, scope: bytes) -> bytes:
        return wrapped


def _fieldseal_settings(keys: Sequence[str], folder: Path) -> Settings:
    package = import_module("fieldseal.keyprovider")
    policy = import_module("fieldseal.cache").CachePolicy

    def provider() -> Any:
        versions = tuple(
            package.WrappedKeyVersion(
                version=number,
                key_id=bytes.fromhex(key[:32]),
                wrapped_dek=bytes.fromhex(key),
                wrapped_index_key=sha256(key.encode()).digest(),
            )
            for number, key in enumerate(keys, 1)
        )
        keyset = package.WrappedKeySet(scope=b"", versions=versions, active_version=1)
        made = package.EnvelopeKeyProvider(
            wrapper=_Unwrapped(),
            directory=package.InMemoryKeyDirectory([keyset]),
            cache=policy(timedelta(hours=1), 1_000_000, 100),
        )
        asyncio.run(made.warm([SimpleNamespace(tenant_id=None)]))
        return made

    suite = 0xFF01
    return {
        "FIELDSEAL": {
            "KEY_PROVIDER": provider,
            "ALLOWED_SUITES": {suite},
            "WRITE_SUITE": suite,
            "ARM_PROVISIONAL_SUITES": True,
        }
    }


def _pgcrypto_search(tenant: Any) -> Search:
    fields = import_module("pgcrypto.fields")
    columns = {
        "secret": fields.TextPGPSymmetricKeyField(),
        "index": fields.TextHMACField(original="secret"),
    }
    return columns, lambda value, row: {"index__hash_of": value}


def _field_encryption(keys: Sequence[str], folder: Path) -> Settings:
    return {
        "DATA_PROTECTION_KEYS": {f"k{key[:4]}": fernet_key(key) for key in keys},
        "DATA_PROTECTION_ACTIVE_KEY_ID": f"k{keys[0][:4]}",
    }


def _tink(keys: Sequence[str], folder: Path) -> Settings:
    """One keyset of all keys; each key's own keyset is made once and kept in the folder."""
    tink = import_module("tink")
    aead, access = import_module("tink.aead"), import_module("tink.secret_key_access")
    aead.register()
    sets = []
    for key in keys:
        file = folder / f"{key[:4]}.json"
        if not file.exists():
            made = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
            file.write_text(tink.json_proto_keyset_format.serialize(made, access.TOKEN))
        sets.append(json.loads(file.read_text()))
    joined = sets[0] | {"key": [key for keyset in sets for key in keyset["key"]]}
    path = folder / f"{len(keys)}-{keys[0][:4]}.json"
    path.write_text(json.dumps(joined))
    search = folder / "deterministic.json"
    if not search.exists():
        daead = import_module("tink.daead")
        daead.register()
        made = tink.new_keyset_handle(daead.deterministic_aead_key_templates.AES256_SIV)
        search.write_text(tink.json_proto_keyset_format.serialize(made, access.TOKEN))
    keysets = {"default": path, "deterministic": search}
    return {
        "TINK_FIELDS_CONFIG": {
            name: {"cleartext": True, "path": str(file)} for name, file in keysets.items()
        }
    }


OURS = Package(
    "dashtray (encryption)",
    (),
    "encryption",
    lambda keys, _: {"ENCRYPTION": {"MASTER_KEY": keys[0], "MASTER_KEY_FALLBACKS": keys[1:]}},
    _ours,
    app="encryption",
    rotation="rotate_master_key",
    search=_our_search,
    columns=_our_columns,
)

PEERS = [
    Package(
        "django-fernet-encrypted-fields",
        ("django-fernet-encrypted-fields==0.4.0",),
        "encrypted_fields",
        lambda keys, _: {"SALT_KEY": list(keys)},
        _of("encrypted_fields.fields", "EncryptedTextField", "EncryptedJSONField"),
    ),
    Package(
        "django-cryptography-django5",
        ("django-cryptography-django5==2.2", "django-appconf==1.2.0"),
        "django_cryptography",
        lambda keys, _: {"CRYPTOGRAPHY_KEY": keys[0]},
        _cryptography,
    ),
    Package(
        "django-fernet-fields-v2",
        ("django-fernet-fields-v2==0.9",),
        "fernet_fields",
        lambda keys, _: {"FERNET_KEYS": list(keys)},
        _of("fernet_fields", "EncryptedTextField"),
    ),
    Package(
        "django-field-encryption",
        ("django-field-encryption==0.2.3",),
        "django_field_encryption",
        _field_encryption,
        _of("django_field_encryption", "EncryptedTextField", "EncryptedJSONField"),
        app="django_field_encryption",
        rotation="rotate_encryption_keys",
        search=_field_encryption_search,
    ),
    Package(
        "django-tink-fields",
        (
            "django-tink-fields==0.5.0",
            "absl-py==2.5.1",
            "bazel_runfiles==2.4.6",
            "protobuf==7.36.2",
            "tink==1.16.1",
        ),
        "tink_fields",
        _tink,
        _of("tink_fields.fields", "EncryptedTextField", "EncryptedJSONField"),
        search=_tink_search,
    ),
    Package(
        "django-encrypted-model-fields",
        ("django-encrypted-model-fields==0.6.5",),
        "encrypted_model_fields",
        lambda keys, _: {"FIELD_ENCRYPTION_KEY": [fernet_key(key) for key in keys]},
        _of("encrypted_model_fields.fields", "EncryptedTextField"),
    ),
    Package(
        "django-searchable-encrypted-fields",
        ("django-searchable-encrypted-fields==0.2.1", "pycryptodome==4.4.0"),
        "encrypted_fields",
        lambda keys, _: {"FIELD_ENCRYPTION_KEYS": [sha256(k.encode()).hexdigest() for k in keys]},
        _of("encrypted_fields.fields", "EncryptedTextField"),
        search=_searchable_search,
    ),
    Package(
        "django-mirage-field",
        ("django-mirage-field==1.4.0", "tqdm==4.70.1"),
        "mirage",
        lambda keys, _: {"MIRAGE_SECRET_KEY": keys[0]},
        _of("mirage.fields", "EncryptedTextField", "EncryptedJSONField"),
        app="mirage",
    ),
    Package(
        "fieldseal-django",
        (
            "fieldseal-django==0.1.3",
            "fieldseal==0.1.3",
            "argon2-cffi==25.1.0",
            "argon2-cffi-bindings==26.2.0",
        ),
        "fieldseal_django",
        _fieldseal_settings,
        _fieldseal,
        app="fieldseal_django",
        search=_fieldseal_search,
        columns=_fieldseal_columns,
        python="3.12",
    ),
    Package(
        "django-pgcrypto-fields",
        ("django-pgcrypto-fields==2.6.0",),
        "pgcrypto",
        lambda keys, _: {"PGCRYPTO_KEY": keys[0]},
        _of("pgcrypto.fields", "TextPGPSymmetricKeyField"),
        app="pgcrypto",
        search=_pgcrypto_search,
        vendor="postgresql",
    ),
]

REFUSED = [
    Refused(("django-cryptography==1.1", "django-appconf==1.2.0"), "django_cryptography.fields"),
    Refused(("hyperscale-crypto==0.3.0",), "hyperscale.crypto.fields"),
]
