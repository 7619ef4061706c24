"""Models of somebody's own project, in each shape that an encrypted field has to work in."""

import uuid

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from encryption.fields import EncryptedJSONField, EncryptedTextField
from encryption.managers import EncryptedManager


class Tenant(models.Model):
    name = models.CharField(max_length=50, blank=True)


class UuidTenant(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=50, blank=True)


class Plain(models.Model):
    """What a plain field does, to compare with."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = models.TextField(null=True, blank=True)
    data = models.JSONField(null=True, blank=True)
    note = models.CharField(max_length=50, blank=True)


class Note(models.Model):
    """The ordinary case, with an automatic primary key and Django's own manager."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant", null=True, blank=True)
    data = EncryptedJSONField(salt_field="tenant", null=True, blank=True)
    note = models.CharField(max_length=50, blank=True)
    updated_at = models.DateTimeField(auto_now=True)


class Vault(models.Model):
    """Bound to its own id and to a host; the manager that knows of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(UuidTenant, models.CASCADE, related_name="vaults")
    host = models.CharField(max_length=100, null=True, blank=True)
    secret = EncryptedTextField(salt_field="tenant", bound_to=("id", "host"), null=True, blank=True)
    data = EncryptedJSONField(
        salt_field="tenant", bound_to=("id",), null=True, blank=True, encoder=DjangoJSONEncoder
    )
    name = models.CharField(max_length=50, blank=True)

    objects = EncryptedManager()


class LateSalt(models.Model):
    """The secret stands before all that it depends on."""

    secret = EncryptedTextField(salt_field="owner", bound_to=("code",))
    code = models.SlugField()
    owner = models.ForeignKey(Tenant, models.CASCADE)


class Branded(models.Model):
    secret = EncryptedTextField(salt_field="tenant")
    tenant = models.ForeignKey(Tenant, models.CASCADE)

    class Meta:
        abstract = True


class BrandedOne(Branded):
    pass


class BrandedTwo(Branded):
    extra = EncryptedTextField(salt_field="tenant", null=True)


class Parent(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant")


class Child(Parent):
    inner = EncryptedTextField(salt_field="tenant", null=True)
    label = models.CharField(max_length=20, blank=True)


class BareParent(models.Model):
    """A parent without secrets, whose tenant a child's secret depends on."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)


class SecretChild(BareParent):
    inner = EncryptedTextField(salt_field="tenant", null=True)


class NoteProxy(Note):
    class Meta:
        proxy = True


class Holder(models.Model):
    """Points to a note that may be missing."""

    note = models.ForeignKey(Note, models.SET_NULL, null=True, related_name="holders")


class OwnKey(models.Model):
    """Each row is its own tenant; the salt is a plain text field in the second."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    secret = EncryptedTextField(salt_field="id")


class TextSalt(models.Model):
    realm = models.CharField(max_length=50)
    secret = EncryptedTextField(salt_field="realm", unique=False)
    slug = models.SlugField(unique=True)


class Adopted(models.Model):
    """A column that held plaintext before."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant", allow_plaintext=True, null=True)
    data = EncryptedJSONField(salt_field="tenant", allow_plaintext=True, null=True)
