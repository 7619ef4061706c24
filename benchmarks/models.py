# ruff: noqa: DJ008  # these rows are never shown
"""The tables that are measured; each has a tenant and one value."""

import json
import uuid
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import models

from benchmarks import original, peers
from encryption.fields import BlindIndexField, EncryptedJSONField, EncryptedTextField

_READY = AESGCM(bytes(range(32)))


class Tenant(models.Model):
    name = models.CharField(max_length=20)


class _Row(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

    class Meta:
        abstract = True


class _UuidRow(_Row):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta:
        abstract = True


class Plain(_Row):
    secret = models.TextField()


class Encrypted(_Row):
    secret = EncryptedTextField(salt_field="tenant")


class LeastTextField(models.TextField):
    """The least that a text form costs: eager, with one ready key, and nothing of what a field
    has to know (the row's tenant, a format, what it was loaded with)."""

    def from_db_value(self, value: str, *args: Any) -> Any:
        return original.decrypt(value, _READY)

    def get_db_prep_save(self, value: Any, connection: Any) -> str:
        return original.encrypt(value, _READY)


class LeastJSONField(LeastTextField):
    def from_db_value(self, value: str, *args: Any) -> Any:
        return json.loads(super().from_db_value(value))

    def get_db_prep_save(self, value: Any, connection: Any) -> str:
        return super().get_db_prep_save(json.dumps(value), connection)


class Least(_Row):
    secret = LeastTextField()


class PlainJSON(_Row):
    secret = models.JSONField()


class EncryptedJSON(_Row):
    secret = EncryptedJSONField(salt_field="tenant")


class LeastJSON(_Row):
    secret = LeastJSONField()


class PlainUuid(_UuidRow):
    secret = models.TextField()


class BoundUuid(_UuidRow):
    secret = EncryptedTextField(salt_field="tenant", bound_to=("id",))


class PlainSearched(_Row):
    secret = models.CharField(max_length=55, db_index=True)


class Searched(_Row):
    secret = EncryptedTextField(salt_field="tenant")
    secret_index = BlindIndexField("secret")


OURS = (
    *(Plain, Least, Encrypted, PlainJSON, LeastJSON, EncryptedJSON, PlainUuid, BoundUuid),
    *(PlainSearched, Searched),
)
PEERS = peers.load(Tenant)
TABLES = (
    Tenant,
    *OURS,
    *(model for peer in PEERS for model in (peer.text, peer.json) if model is not None),
)
