# ruff: noqa: DJ008  # these rows are never shown
"""The tables that are measured; each has a tenant and one value."""

import uuid

from django.db import models

from benchmarks import peers
from encryption.fields import EncryptedJSONField, EncryptedTextField


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


class PlainJSON(_Row):
    secret = models.JSONField()


class EncryptedJSON(_Row):
    secret = EncryptedJSONField(salt_field="tenant")


class PlainUuid(_UuidRow):
    secret = models.TextField()


class BoundUuid(_UuidRow):
    secret = EncryptedTextField(salt_field="tenant", bound_to=("id",))


OURS = (Plain, Encrypted, PlainJSON, EncryptedJSON, PlainUuid, BoundUuid)
PEERS = peers.load(Tenant)
TABLES = (
    Tenant,
    *OURS,
    *(model for peer in PEERS for model in (peer.text, peer.json) if model is not None),
)
