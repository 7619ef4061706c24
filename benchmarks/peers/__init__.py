"""The other packages: installed for the run alone, and a text and a JSON field of each."""

import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.db import models

HERE = Path(__file__).parent
SITE = HERE / "site"

#: Thrown away with the run; Django's own settings need these names to be there.
_keyset_folder = TemporaryDirectory()


def install() -> str:
    """Install the pinned packages into a folder of their own; say what went wrong, or nothing.

    They are put behind everything else on the path, so all measure with one Django and one
    cryptography.
    """
    requirements = HERE / "requirements.txt"
    stamp = SITE / "installed.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        done = subprocess.run(
            [*command, "--target", str(SITE), "-r", str(requirements)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return "the packages could not be installed"
        stamp.write_text(requirements.read_text())
    sys.path.append(str(SITE))
    return ""


def settings() -> dict[str, Any]:
    """What the packages want in Django's settings."""
    return {
        "SALT_KEY": "a salt for measurements",
        "DATA_PROTECTION_KEYS": {"v1": urlsafe_b64encode(bytes(range(32))).decode()},
        "DATA_PROTECTION_ACTIVE_KEY_ID": "v1",
        "TINK_FIELDS_CONFIG": {
            "default": {"cleartext": True, "path": str(Path(_keyset_folder.name) / "keyset.json")}
        },
    }


def _tink() -> Mapping[str, Callable[[], Any]]:
    tink = import_module("tink")
    aead, secrets = import_module("tink.aead"), import_module("tink.secret_key_access")
    aead.register()
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    serialized = tink.json_proto_keyset_format.serialize(handle, secrets.TOKEN)
    (Path(_keyset_folder.name) / "keyset.json").write_text(serialized)
    fields = import_module("tink_fields.fields")
    return {"text": fields.EncryptedTextField, "json": fields.EncryptedJSONField}


def _field_encryption() -> Mapping[str, Callable[[], Any]]:
    package = import_module("django_field_encryption")
    return {"text": package.EncryptedTextField, "json": package.EncryptedJSONField}


def _fernet_encrypted() -> Mapping[str, Callable[[], Any]]:
    fields = import_module("encrypted_fields.fields")
    return {"text": fields.EncryptedTextField, "json": fields.EncryptedJSONField}


def _cryptography() -> Mapping[str, Callable[[], Any]]:
    encrypt = import_module("django_cryptography.fields").encrypt
    return {
        "text": lambda: encrypt(models.TextField()),
        "json": lambda: encrypt(models.JSONField()),
    }


def _fernet_v2() -> Mapping[str, Callable[[], Any]]:
    return {"text": import_module("fernet_fields").EncryptedTextField}


_PACKAGES = {
    "django-tink-fields": _tink,
    "django-field-encryption": _field_encryption,
    "django-fernet-encrypted-fields": _fernet_encrypted,
    "django-cryptography": _cryptography,
    "django-fernet-fields-v2": _fernet_v2,
}


@dataclass(frozen=True)
class Peer:
    """One package: its model with a text, and with a JSON value if it has such a field.

    Args:
        problem: why it does not run; empty if it does.
    """

    name: str
    text: type[models.Model] | None = None
    json: type[models.Model] | None = None
    problem: str = ""


def load(tenant: type[models.Model]) -> list[Peer]:
    """Make a model with the field of each package, or say what it failed with."""
    return [_load(name, tenant) for name in _PACKAGES]


def _load(name: str, tenant: type[models.Model]) -> Peer:
    try:
        fields = _PACKAGES[name]()
        made = {kind: _model(name, kind, make(), tenant) for kind, make in fields.items()}
    except Exception as error:  # noqa: BLE001  # whatever it is, the table says so
        return Peer(name, problem=f"{type(error).__name__}: {error}"[:120])
    return Peer(name, **made)


def _model(name: str, kind: str, field: Any, tenant: type[models.Model]) -> type[models.Model]:
    title = "".join(word.title() for word in name.split("-")) + kind.title()
    members = {
        "__module__": "benchmarks.models",
        "tenant": models.ForeignKey(tenant, models.CASCADE, related_name="+"),
        "secret": field,
        "Meta": type("Meta", (), {"app_label": "benchmarks"}),
    }
    return type(title, (models.Model,), members)
