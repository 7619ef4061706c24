"""Rows of the models in `tests.fieldapp.models`, with made-up secrets."""

import factory

from tests.fieldapp import models


class TenantFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.Tenant

    name = factory.Sequence(lambda number: f"Tenant {number}")


class UuidTenantFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.UuidTenant

    name = factory.Sequence(lambda number: f"Tenant {number}")


class NoteFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.Note

    tenant = factory.SubFactory(TenantFactory)
    secret = factory.Sequence(lambda number: f"the secret of note {number}")
    data = factory.Sequence(lambda number: {"note": number, "tags": ["private"]})
    note = factory.Sequence(lambda number: f"Note {number}")


class VaultFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.Vault

    tenant = factory.SubFactory(UuidTenantFactory)
    host = "vault.example.com"
    secret = factory.Sequence(lambda number: f"the secret of vault {number}")
    data = factory.Sequence(lambda number: {"vault": number, "tags": ["private"]})
    name = factory.Sequence(lambda number: f"Vault {number}")


class LateSaltFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.LateSalt

    owner = factory.SubFactory(TenantFactory)
    code = factory.Sequence(lambda number: f"code-{number}")
    secret = factory.Sequence(lambda number: f"the secret of code {number}")


class TextSaltFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.TextSalt

    realm = "north"
    slug = factory.Sequence(lambda number: f"slug-{number}")
    secret = factory.Sequence(lambda number: f"the secret of slug {number}")


class ParentFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.Parent

    tenant = factory.SubFactory(TenantFactory)
    secret = factory.Sequence(lambda number: f"the secret of parent {number}")


class ChildFactory(ParentFactory):
    class Meta:
        model = models.Child

    inner = factory.Sequence(lambda number: f"the inner secret of child {number}")
    label = factory.Sequence(lambda number: f"Child {number}")


class SecretChildFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = models.SecretChild

    tenant = factory.SubFactory(TenantFactory)
    inner = factory.Sequence(lambda number: f"the inner secret of child {number}")
