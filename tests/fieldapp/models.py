"""Models of somebody's own project, in each shape that an encrypted field has to work in."""

import uuid

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from encryption.fields import BlindIndexField, EncryptedJSONField, EncryptedTextField
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
    motto = models.CharField(max_length=20, blank=True)


class Grandchild(Child):
    """Its secret depends on columns of two tables above it."""

    deepest = EncryptedTextField(salt_field="tenant", bound_to=["motto"], null=True)


class Cousin(Child):
    """Its secret depends on nothing of the table above it, but on one above that."""

    deepest = EncryptedTextField(salt_field="tenant", null=True)


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


class Indexed(models.Model):
    """Found by blind indexes; one index stands before what it is the index of."""

    early = BlindIndexField("secret", normalize="casefold", scope="global")
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="indexed")
    host = models.CharField(max_length=100, null=True, blank=True)
    secret = EncryptedTextField(salt_field="tenant", bound_to=("id", "host"), null=True, blank=True)
    data = EncryptedJSONField(salt_field="tenant", null=True, blank=True)
    secret_index = BlindIndexField("secret")
    key_index = BlindIndexField("data", path="auth__key")
    name = models.CharField(max_length=50, blank=True)

    objects = EncryptedManager()


class Watched(models.Model):
    """For tests that do anything in any order: as `Vault`, with an index of each kind."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(UuidTenant, models.CASCADE)
    host = models.CharField(max_length=100, null=True, blank=True)
    secret = EncryptedTextField(salt_field="tenant", bound_to=("id", "host"), null=True, blank=True)
    secret_index = BlindIndexField("secret")
    folded = BlindIndexField("secret", normalize="casefold", scope="global", db_index=False)
    data = EncryptedJSONField(salt_field="tenant", bound_to=("id",), null=True, blank=True)
    marked = BlindIndexField("data", path="PLAINTEXT", bits=20)
    name = models.CharField(max_length=50, blank=True)

    objects = EncryptedManager()


class IndexedPlainly(models.Model):
    """The same with an automatic primary key and Django's own manager."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant")
    secret_index = BlindIndexField("secret")
    note = models.CharField(max_length=50, blank=True)


class IndexedFirst(models.Model):
    """The index stands before its tenant, and both before the secret."""

    secret_index = BlindIndexField("secret")
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant")

    objects = EncryptedManager()


class Once(models.Model):
    """A secret that each tenant may have once, and a code that is unique beside a label."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant", null=True, blank=True)
    secret_index = BlindIndexField("secret", unique=True)
    label = models.CharField(max_length=20, blank=True)
    code = EncryptedTextField(salt_field="tenant", null=True, blank=True)
    code_index = BlindIndexField("code", scope="global", db_index=False)
    is_active = models.BooleanField(default=True)

    objects = EncryptedManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["label", "code_index"],
                condition=models.Q(is_active=True),
                name="fieldapp_once_code",
            )
        ]


class Judged(models.Model):
    """Constraints with conditions, about a secret and about other fields."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    number = models.IntegerField(default=0)
    secret = EncryptedTextField(salt_field="tenant", null=True, blank=True)
    code = EncryptedTextField(salt_field="tenant", null=True, blank=True)
    code_index = BlindIndexField("code")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(number__gte=0), name="fieldapp_judged_number"
            ),
            models.CheckConstraint(
                condition=models.Q(secret__isnull=False) | models.Q(number__lt=100),
                name="fieldapp_judged_secret",
            ),
            models.CheckConstraint(
                condition=models.Q(code_index__isnull=False) | models.Q(number__lt=200),
                name="fieldapp_judged_code",
            ),
            models.UniqueConstraint(
                fields=["tenant", "number"],
                condition=models.Q(number__gt=0, secret__isnull=False),
                name="fieldapp_judged_once",
            ),
        ]


class Short(models.Model):
    """A truncated index: many values share one."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant", null=True)
    secret_index = BlindIndexField("secret", bits=4, normalize="strip")

    objects = EncryptedManager()


class IndexedParent(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    secret = EncryptedTextField(salt_field="tenant")
    secret_index = BlindIndexField("secret")


class IndexedChild(IndexedParent):
    inner = EncryptedTextField(salt_field="tenant", null=True)
    inner_index = BlindIndexField("inner")
