"""The conditions of constraints, when an instance is validated: they see no secret."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.db import connection, models
from django.db.models import F, Q
from django.db.models.functions import Length
from django.test.utils import CaptureQueriesContext, isolate_apps

from encryption.fields import EncryptedTextField
from tests.encryption.database import damaged, store, stored
from tests.fieldapp.models import Judged, Tenant

pytestmark = pytest.mark.django_db

MARK = "PLAINTEXT"


@pytest.fixture
def row(tenant: Tenant) -> Judged:
    made = Judged.objects.create(tenant=tenant, number=1, secret=MARK, code=MARK)
    return Judged.objects.get(pk=made.pk)


def test_validation_decrypts_nothing(row: Judged, crypto: Counter[str]) -> None:
    row.full_clean()
    row.number = -1
    with pytest.raises(ValidationError, match="fieldapp_judged_number"):
        row.full_clean()
    assert not crypto


def test_no_value_goes_to_the_database(row: Judged) -> None:
    assert row.secret == MARK
    row.code = MARK
    with CaptureQueriesContext(connection) as queries:
        row.full_clean()
    assert queries.captured_queries
    assert MARK not in str(queries.captured_queries)


class JudgedForm(forms.ModelForm):
    class Meta:
        model = Judged
        fields = ("number", "secret")


def test_a_row_that_cannot_be_read_is_repaired_in_a_form(row: Judged) -> None:
    for name in ("secret", "code"):
        store(row, name, damaged(stored(row, name)))
    loaded = Judged.objects.get()
    loaded.full_clean()
    form = JudgedForm({"number": 2, "secret": "repaired"}, instance=loaded)
    assert form.is_valid(), form.errors
    form.save()
    assert Judged.objects.get().secret == "repaired"


@pytest.mark.parametrize("name", ["secret", "code"])
def test_whether_a_secret_is_null_is_judged(tenant: Tenant, name: str) -> None:
    number = {"secret": 100, "code": 200}[name]
    fine: dict[str, Any] = {"tenant": tenant, "number": number, "secret": MARK, "code": MARK}
    Judged(**fine).full_clean()
    with pytest.raises(ValidationError, match=f"fieldapp_judged_{name}"):
        Judged(**{**fine, name: None}).full_clean()
    Judged.objects.create(**fine)
    loaded = Judged.objects.defer("secret", "code").get()
    loaded.full_clean()
    setattr(loaded, name, None)
    with pytest.raises(ValidationError, match=f"fieldapp_judged_{name}"):
        loaded.full_clean()


def test_a_unique_constraint_with_a_condition_about_a_secret(row: Judged) -> None:
    fields = {"tenant": row.tenant, "number": row.number}
    with pytest.raises(ValidationError, match="fieldapp_judged_once"):
        Judged(**fields, secret="another").full_clean()
    Judged(**fields, secret=None).full_clean()


@pytest.mark.parametrize("name", ["secret", "code", "code_index"])
@pytest.mark.parametrize(
    "condition",
    [
        lambda name: Q(number__lt=Length(name)),
        lambda name: Q(number=F(name)),
    ],
    ids=["a function", "on the right"],
)
def test_what_cannot_be_judged_is_left_to_the_database(
    row: Judged, name: str, condition: Callable[[str], Q]
) -> None:
    models.CheckConstraint(condition=condition(name), name="c").validate(Judged, row)
    assert Judged.objects.exists()  # the transaction is not broken


@isolate_apps("tests.fieldapp")
def test_generated_fields() -> None:
    class Generating(models.Model):
        realm = models.CharField(max_length=10)
        secret = EncryptedTextField(salt_field="realm", null=True)
        is_set = models.GeneratedField(
            expression=Q(secret__isnull=False),
            output_field=models.BooleanField(),
            db_persist=True,
        )

        class Meta:
            app_label = "fieldapp"

    is_set = models.CheckConstraint(condition=Q(is_set=True), name="is_set")
    is_set.validate(Generating, Generating(realm="r", secret=MARK))
    with pytest.raises(ValidationError, match="is_set"):
        is_set.validate(Generating, Generating(realm="r"))
