"""Unique blind indexes: in forms, in the database, and across the keys of a rotation."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from django import forms
from django.core import serializers as fixtures
from django.core.exceptions import NON_FIELD_ERRORS, FieldError, ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Lower
from django.db.models.signals import ModelSignal, post_save, pre_save
from django.test.utils import isolate_apps
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework import serializers

from encryption.fields import BlindIndexField, EncryptedJSONField, EncryptedTextField
from encryption.managers import EncryptedManager
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import damaged, refused, store, stored, tables
from tests.encryption.matching import expect_indexes
from tests.fieldapp.models import IndexedPlainly, Once, Tenant

pytestmark = pytest.mark.django_db

MARK = "PLAINTEXT"


@pytest.fixture
def row(tenant: Tenant) -> Once:
    return Once.objects.create(tenant=tenant, secret=MARK, label="l", code="CODE")


@pytest.fixture
def rotating(row: Once, settings: Settings) -> Once:
    """A row under what is the old key by now."""
    primary = os.environ["MASTER_ENCRYPTION_KEY"]
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
    return row


# -- validation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["one key", "two keys"])
def test_validation_names_the_secret_and_not_the_value(
    row: Once, other_tenant: Tenant, settings: Settings, when: str
) -> None:
    if when == "two keys":
        primary = os.environ["MASTER_ENCRYPTION_KEY"]
        settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
    same = Once(tenant=row.tenant, secret=MARK)
    for validate in (same.full_clean, same.validate_unique):
        with pytest.raises(ValidationError) as caught:
            validate()
        assert caught.value.message_dict == {"secret": ["Once with this Secret already exists."]}
        assert caught.value.error_dict["secret"][0].code == "unique"
        assert MARK not in repr(caught.value)
    same.validate_unique(exclude=["secret"])
    Once(tenant=other_tenant, secret=MARK).full_clean()
    Once(tenant=row.tenant, secret="another").full_clean()
    Once(tenant=row.tenant, secret=None).full_clean()
    row.full_clean()
    row.secret = MARK
    row.full_clean()
    loaded = Once.objects.get()
    loaded.full_clean()
    assert loaded.secret == MARK


def test_constraints_with_a_condition(row: Once, other_tenant: Tenant) -> None:
    def other(**changes: Any) -> Once:
        return Once(**{"tenant": other_tenant, "label": "l", "code": "CODE", **changes})

    for validate in (other().full_clean, other().validate_constraints):
        with pytest.raises(ValidationError) as caught:
            validate()
        assert caught.value.message_dict == {"code": ["Once with this Code already exists."]}
    other(label="m").full_clean()
    other(code="else").full_clean()
    other(is_active=False).full_clean()
    other().validate_constraints(exclude=["label"])
    row.is_active = False
    row.save()
    other().full_clean()


def test_validation_without_a_tenant_or_a_readable_value(row: Once) -> None:
    Once(secret=MARK).validate_unique()
    bad: Any = object()
    Once(tenant=row.tenant, secret=bad).validate_unique()
    token = stored(row, "secret")
    store(row, "secret", damaged(token))
    Once.objects.get().validate_unique()


class OnceForm(forms.ModelForm):
    class Meta:
        model = Once
        fields = ("tenant", "secret", "label", "code")


def test_forms(row: Once) -> None:
    data = {"tenant": row.tenant_id, "secret": MARK, "label": "l", "code": "CODE"}
    form = OnceForm(data)
    assert not form.is_valid()
    assert form.errors == {
        "secret": ["Once with this Secret already exists."],
        "code": ["Once with this Code already exists."],
    }
    assert MARK not in str(form)
    assert NON_FIELD_ERRORS not in form.errors
    # What is stored is kept where the input is left empty, and is not its own duplicate.
    kept = OnceForm({"tenant": row.tenant_id, "label": "m"}, instance=Once.objects.get())
    assert kept.is_valid(), kept.errors
    kept.save()
    assert Once.objects.get().secret == MARK
    expect_indexes(Once)


# -- formsets -----------------------------------------------------------------------------------

DUPLICATE = "Please correct the duplicate data for secret."
BELOW = {NON_FIELD_ERRORS: ["Please correct the duplicate values below."]}
FIELDS = ("tenant", "secret", "label", "code", "is_active")


def formset_of(
    *rows: dict[str, Any], stored: Any = (), model: Any = Once, fields: Any = FIELDS
) -> forms.BaseModelFormSet:
    """A bound formset of these rows, the first of which are stored."""
    pks = [row.pk for row in stored]
    data = {"form-TOTAL_FORMS": len(rows), "form-INITIAL_FORMS": len(pks)}
    for place, row in enumerate(rows):
        data |= {f"form-{place}-{name}": value for name, value in row.items()}
    data |= {f"form-{place}-id": pk for place, pk in enumerate(pks)}
    made = forms.modelformset_factory(model, fields=fields, extra=len(rows), can_delete=True)
    queryset = model._default_manager.filter(pk__in=pks).order_by("pk")
    return made(data, queryset=queryset)


def test_a_formset_says_that_two_of_its_forms_are_equal(tenant: Tenant) -> None:
    same = {"tenant": tenant.pk, "secret": MARK}
    formset = formset_of(same, {**same, "secret": "else"}, same, same)
    assert not formset.is_valid()
    assert formset.non_form_errors() == [DUPLICATE, DUPLICATE]
    assert formset.errors == [{}, {}, BELOW, BELOW]
    assert MARK not in str(formset)
    assert MARK not in repr([form.errors.get_json_data() for form in formset.forms])
    assert [set(form.cleaned_data) & {"secret"} for form in formset.forms[2:]] == [set()] * 2


def test_a_formset_of_different_rows(tenant: Tenant, other_tenant: Tenant) -> None:
    formset = formset_of(
        {"tenant": tenant.pk, "secret": MARK},
        {"tenant": other_tenant.pk, "secret": MARK},
        {"tenant": tenant.pk, "secret": MARK.lower()},
        {"tenant": tenant.pk, "secret": ""},
        {"tenant": tenant.pk, "secret": ""},
        {"tenant": tenant.pk, "secret": MARK, "DELETE": "on"},
        {"is_active": "on"},
        {"is_active": "on"},
    )
    assert formset.is_valid(), (formset.errors, formset.non_form_errors())
    formset.save()
    assert Once.objects.count() == 5
    expect_indexes(Once)


def test_a_formset_compares_all_fields_of_a_constraint(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    code = {"tenant": tenant.pk, "label": "l", "code": "CODE", "is_active": "on"}
    apart = formset_of(
        code,
        {**code, "label": "m"},
        {**code, "code": "else"},
        {**code, "is_active": ""},
        {**code, "is_active": ""},
    )
    assert apart.is_valid(), (apart.errors, apart.non_form_errors())
    # Its scope is "global".
    twice = formset_of({**code, "is_active": ""}, code, {**code, "tenant": other_tenant.pk})
    assert not twice.is_valid()
    assert twice.non_form_errors() == [
        "Please correct the duplicate data for label and code, which must be unique."
    ]
    assert twice.errors == [{}, {}, BELOW]
    # As each form by itself, a formset knows nothing of a field that it does not have.
    fields = ("tenant", "code")
    assert formset_of(code, code, fields=fields).is_valid()


def test_a_formset_of_stored_rows(row: Once, tenant: Tenant, other_tenant: Tenant) -> None:
    third = Tenant.objects.create(name="third")
    other = Once.objects.create(tenant=other_tenant, secret=MARK)
    # What is stored is kept where the input is left empty, and goes along to another tenant.
    moved = formset_of(
        {"tenant": third.pk}, {"tenant": third.pk}, stored=[row, other], fields=("tenant", "secret")
    )
    assert not moved.is_valid()
    assert moved.non_form_errors() == [DUPLICATE]
    assert moved.errors == [{}, BELOW]

    kept = formset_of(
        {"tenant": tenant.pk, "label": "m"},
        {"tenant": other_tenant.pk, "label": "n"},
        {"tenant": third.pk, "secret": MARK},
        stored=[row, other],
    )
    assert kept.is_valid(), (kept.errors, kept.non_form_errors())
    kept.save()
    assert Once.objects.filter(secret=MARK, tenant=third).exists()
    expect_indexes(Once)


def test_a_formset_does_not_decrypt_what_it_does_not_save(row: Once, tenant: Tenant) -> None:
    token = stored(row, "secret")
    store(row, "secret", token[:-6] + "AAAAAA")
    other = {"tenant": tenant.pk, "secret": "else"}
    formset = formset_of({"tenant": tenant.pk, "label": "m"}, other, stored=[row])
    assert formset.is_valid(), formset.errors


def test_an_inline_formset_of_a_tenant_that_is_not_saved_yet(db: None) -> None:
    made = forms.inlineformset_factory(Tenant, Once, fields=("secret", "label"), extra=3)
    data = {"once_set-TOTAL_FORMS": 3, "once_set-INITIAL_FORMS": 0}
    data |= {f"once_set-{place}-secret": MARK for place in range(2)}
    formset = made(data, instance=Tenant(name="new"))
    assert not formset.is_valid()
    assert formset.non_form_errors() == [DUPLICATE]
    formset = made({**data, "once_set-1-secret": "else"}, instance=Tenant(name="new"))
    assert formset.is_valid(), formset.errors
    formset.instance.save()
    formset.save()
    assert {row.secret for row in Once.objects.all()} == {MARK, "else"}


def test_a_formset_during_a_rotation(rotating: Once, tenant: Tenant) -> None:
    assert formset_of({"tenant": tenant.pk, "secret": "else"}).is_valid()
    same = {"tenant": tenant.pk, "secret": "else"}
    assert formset_of(same, same).non_form_errors() == [DUPLICATE]


@pytest.mark.django_db(transaction=True)
def test_a_formset_compares_as_the_index_does() -> None:
    with isolate_apps("tests.fieldapp"):

        class Priced(models.Model):
            realm = models.CharField(max_length=10)
            price = models.DecimalField(max_digits=5, decimal_places=2, null=True, blank=True)
            data = EncryptedJSONField(salt_field="realm")
            key_index = BlindIndexField("data", path="auth__key", normalize="casefold")
            group = models.ForeignKey(Tenant, models.CASCADE, null=True, blank=True)
            email = EncryptedTextField(salt_field="realm", null=True, blank=True)
            email_index = BlindIndexField("email", normalize="strip")

            class Meta:
                app_label = "fieldapp"
                constraints = [
                    models.UniqueConstraint(
                        fields=["key_index", "price"], name="fieldapp_priced_once"
                    )
                ]
                unique_together = [("group", "email_index")]

    def errors(*rows: dict[str, Any]) -> list[str]:
        fields = ("realm", "price", "data", "group", "email")
        return list(formset_of(*rows, model=Priced, fields=fields).non_form_errors())

    with tables(Priced):
        group = Tenant.objects.create(name="group").pk
        key = {"realm": "r", "price": "1.5", "data": '{"auth": {"key": "PLAINTEXT"}}'}
        message = "Please correct the duplicate data for price and data, which must be unique."
        folded = {**key, "price": "1.50", "data": '{"auth": {"key": "Plaintext"}, "more": 1}'}
        assert errors(key, folded) == [message]
        assert errors(key, {**folded, "price": "2"}) == []
        assert errors(key, {**folded, "realm": "s"}) == []
        assert errors({**key, "price": ""}, {**folded, "price": ""}) == []
        absent = {**key, "data": '{"auth": {}}'}
        assert errors(absent, absent) == []
        one = {**absent, "email": " a@b", "group": group}
        assert errors(one, {**one, "email": "a@b "}) == [
            "Please correct the duplicate data for group and email, which must be unique."
        ]
        assert errors({**one, "group": ""}, {**one, "group": ""}) == []

        # A group that has no id yet is one group all the same, and no NULL.
        fields = ("realm", "data", "email")
        made = forms.inlineformset_factory(Tenant, Priced, fields=fields)
        data = {"priced_set-TOTAL_FORMS": 2, "priced_set-INITIAL_FORMS": 0}
        for place in range(2):
            data |= {f"priced_set-{place}-{name}": one[name] for name in fields}
        inlines = made(data, instance=Tenant(name="new"))
        assert inlines.non_form_errors() == ["Please correct the duplicate data for email."]


@pytest.mark.django_db(transaction=True)
def test_a_formset_where_null_equals_null() -> None:
    with isolate_apps("tests.fieldapp"):

        class Strict(models.Model):
            realm = models.CharField(max_length=10)
            number = models.IntegerField(null=True, blank=True)
            secret = EncryptedTextField(salt_field="realm", null=True, blank=True)
            secret_index = BlindIndexField("secret")

            class Meta:
                app_label = "fieldapp"
                constraints = [
                    models.UniqueConstraint(
                        fields=["number", "secret_index"],
                        nulls_distinct=False,
                        name="fieldapp_strict_once",
                    )
                ]

    with tables(Strict):
        fields = ("realm", "number", "secret")
        same = {"realm": "r", "secret": MARK}
        formset = formset_of(same, {**same, "number": 1}, same, model=Strict, fields=fields)
        assert formset.errors == [{}, {}, BELOW]


def test_a_formset_without_unique_indexes_is_djangos_own(tenant: Tenant) -> None:
    same = {"tenant": tenant.pk, "secret": MARK}
    formset = formset_of(same, same, model=IndexedPlainly, fields=("tenant", "secret", "note"))
    assert formset.is_valid(), formset.errors
    names = [{"name": "same"}] * 2
    assert formset_of(*names, model=Tenant, fields=("name",)).is_valid()


# -- serializers --------------------------------------------------------------------------------


class OnceSerializer(serializers.ModelSerializer):
    class Meta:
        model = Once
        fields = "__all__"


def test_rest(row: Once) -> None:
    data = {"tenant": row.tenant_id, "secret": MARK, "label": "l"}
    serializer = OnceSerializer(data=data)
    assert not serializer.is_valid()
    assert serializer.errors == {"secret": ["Once with this Secret already exists."]}
    assert serializer.errors["secret"][0].code == "unique"
    assert MARK not in repr(serializer.errors)
    other = OnceSerializer(data={**data, "secret": "another"})
    assert other.is_valid(), other.errors
    other.save()
    partly = OnceSerializer(row, data={"secret": "another"}, partial=True)
    assert not partly.is_valid()
    same = OnceSerializer(row, data={"secret": MARK, "label": "m"}, partial=True)
    assert same.is_valid(), same.errors
    same.save()
    assert Once.objects.get(pk=row.pk).label == "m"
    expect_indexes(Once)


def test_rest_shows_no_index(row: Once) -> None:
    shown = OnceSerializer(row).data
    assert "b2:" not in repr(shown)
    assert shown["secret"] == {"set": True}
    assert "secret_index" not in shown


# -- the database -------------------------------------------------------------------------------


def test_the_database_refuses_a_second_one(row: Once, other_tenant: Tenant) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Once.objects.create(tenant=row.tenant, secret=MARK)
    with pytest.raises(IntegrityError), transaction.atomic():
        Once.objects.bulk_create([Once(tenant=row.tenant, secret=MARK)])
    with pytest.raises(IntegrityError), transaction.atomic():
        Once.objects.bulk_create([Once(tenant=row.tenant, secret="x") for _ in range(2)])
    other = Once.objects.create(tenant=other_tenant, secret=MARK)
    other.tenant = row.tenant
    with pytest.raises(IntegrityError), transaction.atomic():
        other.save()
    with pytest.raises(IntegrityError), transaction.atomic():
        other.save(update_fields=["tenant"])
    if connection.features.supports_partial_indexes:
        with pytest.raises(IntegrityError), transaction.atomic():
            Once.objects.create(tenant=other_tenant, label="l", code="CODE")
    assert Once.objects.get_or_create(tenant=row.tenant, secret=MARK) == (row, False)
    Once.objects.bulk_create([Once(tenant=row.tenant, secret=None) for _ in range(2)])


def test_upserts_by_the_index(row: Once, tenant: Tenant) -> None:
    if not connection.features.supports_update_conflicts_with_target:
        pytest.skip("this database has no target of an upsert")
    Once.objects.bulk_create(
        [Once(tenant=tenant, secret=MARK, label="taken over")],
        update_conflicts=True,
        unique_fields=["secret_index"],
        update_fields=["label"],
    )
    assert Once.objects.get().label == "taken over"
    expect_indexes(Once)


# -- two keys -----------------------------------------------------------------------------------


def create(row: Once) -> Once:
    return Once(tenant=row.tenant, secret=MARK)


def saved(**changes: Any) -> Once:
    made = Once.objects.create(**{"secret": "else", **changes})
    return Once.objects.get(pk=made.pk)


def by_save(row: Once, other: Tenant) -> None:
    Once(tenant=row.tenant, secret=MARK).save()


def by_create(row: Once, other: Tenant) -> None:
    Once.objects.create(tenant=row.tenant, secret=MARK)


def by_bulk_create(row: Once, other: Tenant) -> None:
    Once.objects.bulk_create(
        [Once(tenant=row.tenant, secret="x"), Once(tenant=row.tenant, secret=MARK)]
    )


def by_plain_bulk_create(row: Once, other: Tenant) -> None:
    models.QuerySet(Once).bulk_create([Once(tenant=row.tenant, secret=MARK)])


def by_upsert(row: Once, other: Tenant) -> None:
    options: dict[str, Any] = {}
    if connection.features.supports_update_conflicts_with_target:
        options["unique_fields"] = ["id"]
    Once.objects.bulk_create(
        [Once(tenant=row.tenant, secret=MARK)],
        update_conflicts=True,
        update_fields=["secret", "tenant", "code", "label", "is_active"],
        **options,
    )


def by_update(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant)
    changed.secret = MARK
    changed.save()


def by_partial_update(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant)
    changed.secret = MARK
    changed.save(update_fields=["secret"])


def by_a_move(row: Once, other: Tenant) -> None:
    changed = saved(tenant=other, secret=MARK)
    changed.tenant = row.tenant
    changed.save()


def by_a_partial_move(row: Once, other: Tenant) -> None:
    changed = saved(tenant=other, secret=MARK)
    changed.tenant = row.tenant
    changed.secret = "not saved"
    changed.save(update_fields=["tenant"])


def by_bulk_update(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant)
    changed.secret = MARK
    Once.objects.bulk_update([changed], ["secret"])


def by_bulk_update_beside_it(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant)
    changed.secret = MARK
    Once.objects.bulk_update([changed, Once.objects.get(pk=row.pk)], ["secret"])


def by_a_bulk_move(row: Once, other: Tenant) -> None:
    changed = saved(tenant=other, secret=MARK)
    changed.tenant = row.tenant
    Once.objects.bulk_update([changed], ["tenant"])


def by_a_label(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label = "l"
    changed.save(update_fields=["label"])


def by_a_bulk_label(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label = "l"
    Once.objects.bulk_update([changed], ["label"])


def by_a_bulk_label_of_a_key_as_text(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    Once.objects.bulk_update([Once(pk=str(changed.pk), label="l")], ["label"])


def by_a_condition(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="l", is_active=False)
    changed.is_active = True
    changed.save()


def by_a_part_of_a_condition(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="l", is_active=False)
    changed.is_active = True
    changed.save(update_fields=["is_active"])


def by_a_bulk_condition(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="l", is_active=False)
    changed.is_active = True
    Once.objects.bulk_update([changed], ["is_active"])


def by_a_label_beside_a_condition_that_is_not_saved(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label, changed.is_active = "l", False
    changed.save(update_fields=["label"])


def by_a_bulk_label_beside_a_condition_that_is_not_saved(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label, changed.is_active = "l", False
    Once.objects.bulk_update([changed], ["label"])


def by_a_label_beside_a_tenant_that_is_not_saved(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label, changed.tenant = "l", other
    changed.save(update_fields=["label"])


def by_a_constant(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label = Value("l")
    changed.save()


@contextmanager
def handling(signal: ModelSignal, handler: Callable[[Once], None]) -> Iterator[None]:
    def handle(sender: Any, instance: Once, **options: Any) -> None:
        handler(instance)

    signal.connect(handle, sender=Once)
    try:
        yield
    finally:
        signal.disconnect(handle, sender=Once)


def _take_label(instance: Once) -> None:
    instance.label = "l"


def _take_secret(instance: Once) -> None:
    instance.secret = MARK


def by_a_handler_that_changes_a_new_secret(row: Once, other: Tenant) -> None:
    with handling(pre_save, _take_secret):
        Once.objects.create(tenant=row.tenant, secret="new")


def by_a_handler_that_changes_a_secret(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant)
    with handling(pre_save, _take_secret):
        changed.save()


def by_a_handler_that_changes_a_label(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    with handling(pre_save, _take_label):
        changed.save()


def by_a_handler_that_changes_a_part(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    with handling(pre_save, _take_label):
        changed.save(update_fields=["label"])


def by_a_fixture(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label = "l"
    for one in fixtures.deserialize("json", fixtures.serialize("json", [changed])):
        one.save()


def by_a_fixture_of_a_new_row(row: Once, other: Tenant) -> None:
    changed = saved(tenant=row.tenant, code="CODE", label="m")
    changed.label = "l"
    fixture = fixtures.serialize("json", [changed])
    Once.objects.filter(pk=changed.pk).delete()
    for one in fixtures.deserialize("json", fixture):
        one.save()


WRITES: list[Callable[[Once, Tenant], None]] = [
    by_save,
    by_create,
    by_bulk_create,
    by_plain_bulk_create,
    by_upsert,
    by_update,
    by_partial_update,
    by_a_move,
    by_a_partial_move,
    by_bulk_update,
    by_bulk_update_beside_it,
    by_a_bulk_move,
    by_a_label,
    by_a_bulk_label,
    by_a_bulk_label_of_a_key_as_text,
    by_a_condition,
    by_a_part_of_a_condition,
    by_a_bulk_condition,
    by_a_label_beside_a_condition_that_is_not_saved,
    by_a_bulk_label_beside_a_condition_that_is_not_saved,
    by_a_label_beside_a_tenant_that_is_not_saved,
    by_a_constant,
    by_a_handler_that_changes_a_new_secret,
    by_a_handler_that_changes_a_secret,
    by_a_handler_that_changes_a_label,
    by_a_handler_that_changes_a_part,
    by_a_fixture,
    by_a_fixture_of_a_new_row,
]


@pytest.mark.parametrize("write", WRITES, ids=[one.__name__ for one in WRITES])
def test_no_write_makes_a_second_one_under_another_key(
    rotating: Once, other_tenant: Tenant, write: Callable[[Once, Tenant], None]
) -> None:
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        write(rotating, other_tenant)
    assert MARK not in str(caught.value)
    assert "another master key" in str(caught.value)
    assert Once.objects.filter(tenant=rotating.tenant, secret=MARK).count() == 1
    assert Once.objects.filter(code="CODE", label="l", is_active=True).count() == 1
    expect_indexes(Once)


def _twin(row: Once) -> Once:
    """The same code under the other key, beside another label."""
    return Once.objects.create(tenant=row.tenant, secret="else", code="CODE", label="m")


def _upsert(row: Once, *names: str) -> None:
    options: dict[str, Any] = {}
    if connection.features.supports_update_conflicts_with_target:
        options["unique_fields"] = ["id"]
    made = Once(id=_twin(row).pk, tenant=row.tenant, secret="new", label="l", code="new")
    Once.objects.bulk_create([made], update_conflicts=True, update_fields=[*names], **options)


def _save_expression(row: Once, *, bulk: bool = False) -> None:
    twin = _twin(row)
    twin.label = Lower(F("label"))
    if bulk:
        Once.objects.bulk_update([twin], ["label"])
    else:
        twin.save()


def _create_expression(row: Once) -> None:
    Once.objects.create(tenant=row.tenant, code="CODE", label=Lower(Value("L")))


def _update_in_a_handler(row: Once, signal: ModelSignal) -> None:
    twin = _twin(row)

    def update(instance: Once) -> None:
        Once.objects.filter(pk=twin.pk).update(label="l")

    with handling(signal, update):
        row.save()


REFUSED: dict[str, Callable[[Once], object]] = {
    "a label": lambda row: Once.objects.filter(pk=_twin(row).pk).update(label="l"),
    "a condition": lambda row: Once.objects.filter(pk=_twin(row).pk).update(is_active=True),
    "an expression that is saved": _save_expression,
    "an expression that is saved in bulk": lambda row: _save_expression(row, bulk=True),
    "an expression of a new row": _create_expression,
    "a handler before a save": lambda row: _update_in_a_handler(row, pre_save),
    "a handler after a save": lambda row: _update_in_a_handler(row, post_save),
    "an expression": lambda row: Once.objects.filter(pk=_twin(row).pk).update(label=F("label")),
    "a plain queryset": lambda row: models.QuerySet(Once).update(label="l"),
    "a plain bulk_update": lambda row: models.QuerySet(Once).bulk_update([row], ["label"]),
    "an upsert of a label": lambda row: _upsert(row, "label"),
    "an upsert of a code": lambda row: _upsert(row, "code", "tenant", "secret"),
}


@pytest.mark.parametrize("write", REFUSED.values(), ids=list(REFUSED))
def test_what_nobody_can_look_for_duplicates_of_is_refused(
    rotating: Once, write: Callable[[Once], object]
) -> None:
    with refused(FieldError, "two master keys are live"):
        write(rotating)
    assert Once.objects.filter(code="CODE", label="l", is_active=True).count() == 1


def test_what_makes_no_duplicates_is_let_through(rotating: Once, other_tenant: Tenant) -> None:
    Once.objects.filter(pk=rotating.pk).update(label="l", code=None)
    held = Once.objects.get(pk=rotating.pk)
    held.is_active = True
    held.save(update_fields=["is_active"])
    rotating.code, rotating.label = "CODE", "x"
    rotating.save()
    names = ["tenant", "secret", "code", "label", "is_active"]
    _upsert(rotating, *names)
    rotating.is_active = False
    rotating.save(update_fields=["is_active"])
    Once.objects.update(is_active=False)
    idle = saved(tenant=rotating.tenant, code="CODE", label="y", is_active=False)
    idle.label, idle.is_active = "x", True
    Once.objects.bulk_update([idle], ["label"])
    rotating.code = None
    rotating.label = Lower(F("label"))
    rotating.save()
    twin = Once.objects.create(tenant=other_tenant, code="CODE", label="n")
    twin.is_active = False
    twin.label = "x"
    twin.save(update_fields=["label", "is_active"])
    expect_indexes(Once)


def test_rows_of_one_bulk_update_that_a_collation_takes_for_equal(rotating: Once) -> None:
    held, twin = Once.objects.get(pk=rotating.pk), Once.objects.get(pk=_twin(rotating).pk)
    held.label, twin.label = "same", "SAME"
    if connection.vendor == "mysql":
        with pytest.raises(IntegrityError, match="another master key"), transaction.atomic():
            Once.objects.bulk_update([held, twin], ["label"])
        assert set(Once.objects.values_list("label", flat=True)) == {"l", "m"}
    else:
        Once.objects.bulk_update([held, twin], ["label"])
        assert set(Once.objects.values_list("label", flat=True)) == {"same", "SAME"}


def test_under_one_key_the_database_looks(row: Once) -> None:
    Once.objects.update(label="m", is_active=False)
    assert Once.objects.get().label == "m"


def test_other_writes_work_as_ever(rotating: Once, other_tenant: Tenant) -> None:
    rotating.save()
    rotating.label = "x"
    rotating.save()
    rotating.secret = MARK
    rotating.save()
    Once.objects.bulk_update([rotating], ["secret", "label"])
    Once.objects.bulk_create([Once(tenant=other_tenant, secret=MARK), Once(tenant=other_tenant)])
    Once.objects.create(tenant=rotating.tenant, secret="else", code="CODE", label="other")
    Once.objects.create(tenant=other_tenant, code="CODE", label="l", is_active=False)
    found, made = Once.objects.get_or_create(tenant=rotating.tenant, secret=MARK)
    assert (found, made) == (rotating, False)
    fixture = fixtures.serialize("json", [rotating])
    rotating.delete()
    for one in fixtures.deserialize("json", fixture):
        one.save()
    expect_indexes(Once)


def test_an_unreadable_row_can_be_saved(rotating: Once) -> None:
    token = stored(rotating, "secret")
    store(rotating, "secret", damaged(token))
    held = Once.objects.get()
    held.label = "x"
    held.save()
    held.save(update_fields=["label"])
    assert stored(rotating, "label") == "x"


def test_one_key_costs_no_query(
    row: Once, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        Once.objects.create(tenant=row.tenant, secret="else")
    held = Once.objects.get(pk=row.pk)
    with django_assert_num_queries(1):
        held.save()


@pytest.mark.django_db(transaction=True)
def test_a_composite_primary_key(settings: Settings) -> None:
    with isolate_apps("tests.fieldapp"):

        class Numbered(models.Model):
            pk = models.CompositePrimaryKey("realm", "number")
            realm = models.CharField(max_length=10)
            number = models.IntegerField()
            secret = EncryptedTextField(salt_field="realm")
            secret_index = BlindIndexField("secret", unique=True)

            objects = EncryptedManager()

            class Meta:
                app_label = "fieldapp"

    with tables(Numbered):
        held = Numbered.objects.create(realm="r", number=1, secret=MARK)
        primary = os.environ["MASTER_ENCRYPTION_KEY"]
        settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
        other = Numbered.objects.create(realm="r", number=2, secret="else")
        Numbered.objects.bulk_create([Numbered(realm="r", number=3, secret="more")])
        held.secret = MARK
        held.save()
        held.save(update_fields=["secret"])
        other.secret = MARK
        with pytest.raises(IntegrityError, match="another master key"), transaction.atomic():
            other.save()
        with pytest.raises(IntegrityError, match="another master key"), transaction.atomic():
            Numbered.objects.bulk_create([Numbered(realm="r", number=4, secret=MARK)])
        assert Numbered.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_values_that_are_made_while_a_row_is_saved(settings: Settings) -> None:
    # Where a database has none, Django puts "None" in its place if the table has defaults too.
    partial = connection.features.supports_partial_indexes
    with isolate_apps("tests.fieldapp"):

        class Dated(models.Model):
            realm = models.CharField(max_length=10)
            day = models.DateField(auto_now_add=True)
            kind = models.CharField(max_length=10, db_default="token")
            is_active = models.BooleanField(db_default=True)
            secret = EncryptedTextField(salt_field="realm")
            secret_index = BlindIndexField("secret", db_index=False)

            class Meta:
                app_label = "fieldapp"
                constraints = [
                    models.UniqueConstraint(
                        fields=["day", "kind", "secret_index"],
                        condition=models.Q(is_active=True) if partial else None,
                        name="fieldapp_dated_once",
                    )
                ]

    noon = datetime(2031, 5, 6, 12, tzinfo=UTC)  # it stays one day
    with tables(Dated), time_machine.travel(noon, tick=False):
        Dated.objects.create(realm="r", secret=MARK)
        primary = os.environ["MASTER_ENCRYPTION_KEY"]
        settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
        with pytest.raises(IntegrityError, match="another master key"), transaction.atomic():
            Dated.objects.create(realm="r", secret=MARK)
        with pytest.raises(IntegrityError, match="another master key"), transaction.atomic():
            Dated.objects.bulk_create([Dated(realm="r", secret=MARK)])
        Dated.objects.create(realm="r", secret=MARK, kind="other")
        if partial:
            Dated.objects.create(realm="r", secret=MARK, is_active=False)
        assert Dated.objects.count() == 2 + partial
