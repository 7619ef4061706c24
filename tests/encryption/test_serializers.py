import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import QueryDict
from django.test import override_settings
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator
from rest_framework import serializers
from rest_framework.parsers import FormParser, JSONParser
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BrowsableAPIRenderer, HTMLFormRenderer, JSONRenderer
from rest_framework.routers import SimpleRouter
from rest_framework.test import APIClient
from rest_framework.viewsets import ModelViewSet

from encryption.serializers import (
    CredentialsField,
    SecretJSONSerializerField,
    SecretSerializerField,
)
from tests.encryption.database import store, stored
from tests.fieldapp.factories import LateSaltFactory, NoteFactory, TenantFactory
from tests.fieldapp.models import Child, Holder, LateSalt, Note

CANARY = "sk_live_canary_4eC39HqLyjWDarjtT1zdp7dc"
OTHER = "sk_live_other_8Xv0pQ2mN5"


class NoteSerializer(serializers.ModelSerializer):
    """Nothing of ours."""

    class Meta:
        model = Note
        fields = "__all__"


class SecretsSerializer(serializers.ModelSerializer):
    class Meta:
        model = Note
        fields = ["secret", "data"]


class LateSaltSerializer(serializers.ModelSerializer):
    class Meta:
        model = LateSalt
        fields = ["secret", "code", "owner"]


class HolderSerializer(serializers.ModelSerializer):
    class Meta:
        model = Holder
        fields = ["note"]
        depth = 1


class CredentialsSerializer(serializers.ModelSerializer):
    data = CredentialsField(names=["api_key", "webhook_secret"], required_names=["api_key"])

    class Meta:
        model = Note
        fields = ["tenant", "data"]


def fresh(note: Note) -> Note:
    return Note.objects.get(pk=note.pk)


def poison(row: Note, field: str = "secret") -> None:
    """Give a row a token of a key that nobody has."""
    store(row, field, f"v2:00000000:{stored(row, field).rpartition(':')[2]}")


def patched(row: Note, serializer: Any = NoteSerializer, **data: Any) -> Any:
    found = serializer(fresh(row), data=data, partial=True)
    if found.is_valid():
        found.save()
    return found


def codes(serializer: Any, field: str = "secret") -> Any:
    detail = serializer.errors[field]
    if isinstance(detail, dict):
        return {name: [one.code for one in errors] for name, errors in detail.items()}
    return [one.code for one in detail]


# -- reading --------------------------------------------------------------------------------------


def test_a_model_serializer_gives_presence_alone_and_decrypts_nothing(
    db: None, crypto: Counter[str]
) -> None:
    note = NoteFactory(secret=CANARY, data=None)
    Holder.objects.create(note=note)
    poison(note)
    crypto.clear()
    assert NoteSerializer(fresh(note)).data["secret"] == {"set": True}
    assert NoteSerializer(fresh(note)).data["data"] == {"set": False}
    many = NoteSerializer(Note.objects.defer("secret"), many=True).data
    assert many[0]["secret"] == {"set": True}
    assert SecretsSerializer(Note.objects.values("secret", "data"), many=True).data == [
        {"secret": {"set": True}, "data": {"set": False}}
    ]
    assert HolderSerializer(Holder.objects.get()).data["note"]["secret"] == {"set": True}
    assert crypto == {}


def test_inherited_fields_are_covered(db: None) -> None:
    class ChildSerializer(serializers.ModelSerializer):
        class Meta:
            model = Child
            fields = ["secret", "inner"]

    child = Child.objects.create(tenant=TenantFactory(), secret=CANARY)
    assert ChildSerializer(child).data == {"secret": {"set": True}, "inner": {"set": False}}


def test_a_field_across_a_relation(db: None) -> None:
    class Serializer(serializers.Serializer):
        has_secret = SecretSerializerField(source="note.secret", read_only=True)

    note = NoteFactory(secret=CANARY)
    assert Serializer(Holder(note=note)).data == {"has_secret": {"set": True}}
    assert Serializer(Holder(note=None)).data == {"has_secret": {"set": False}}
    assert Serializer({"note": {"secret": CANARY}}).data == {"has_secret": {"set": True}}
    assert Serializer({}).data == {"has_secret": {"set": False}}


def test_an_instance_that_is_not_saved() -> None:
    assert NoteSerializer(Note(secret=CANARY)).data["secret"] == {"set": True}


# -- writing --------------------------------------------------------------------------------------


def test_a_value_is_created_and_not_given_back(db: None) -> None:
    data = {"tenant": TenantFactory().pk, "secret": CANARY, "data": {"key": CANARY}}
    serializer = NoteSerializer(data=data)
    assert serializer.is_valid(), serializer.errors
    note = fresh(serializer.save())
    assert note.secret == CANARY
    assert note.data == {"key": CANARY}
    assert CANARY not in str(serializer.data)


def test_left_out_keeps_the_very_token(db: None, crypto: Counter[str]) -> None:
    note = NoteFactory(secret=CANARY)
    before = stored(note, "secret")
    crypto.clear()
    assert patched(note, note="new").errors == {}
    whole = NoteSerializer(fresh(note), data={"tenant": note.tenant_id, "note": "put"})
    assert whole.is_valid()
    whole.save()
    assert crypto == {}
    assert stored(note, "secret") == before


def test_left_out_of_a_put_keeps_a_required_secret(db: None) -> None:
    row = LateSaltFactory(secret=CANARY)
    data = {"code": "new", "owner": row.owner_id}
    created = LateSaltSerializer(data=data)
    assert not created.is_valid()
    assert codes(created) == ["required"]
    replaced = LateSaltSerializer(LateSalt.objects.get(), data=data)
    assert replaced.is_valid(), replaced.errors
    replaced.save()
    assert LateSalt.objects.get().secret == CANARY


def test_null_clears_where_the_model_allows_it(db: None) -> None:
    note = NoteFactory(secret=CANARY, data=[CANARY])
    assert patched(note, secret=None, data=None).errors == {}
    assert stored(note, "secret") is stored(note, "data") is None
    row = LateSaltFactory()
    refused = LateSaltSerializer(row, data={"secret": None}, partial=True)
    assert not refused.is_valid()
    assert codes(refused) == ["null"]


def test_a_secret_that_cannot_be_read_can_be_replaced(db: None) -> None:
    note = NoteFactory(secret=OTHER)
    poison(note)
    assert patched(note, secret=CANARY).errors == {}
    assert fresh(note).secret == CANARY


@pytest.mark.parametrize("text", [" padded ", "ключ 🔑", "v2:0123abcd:AAAA", "x" * 65_536, "a\nb"])
def test_a_text_is_stored_as_it_was_sent(db: None, text: str) -> None:
    note = NoteFactory(secret=None)
    assert patched(note, secret=text).errors == {}
    assert fresh(note).secret == text


REFUSED = [
    ("", "blank"),
    ("a\0b", "null_character"),
    ("a\ud800b", "surrogate"),
    ("x" * 65_537, "too_long"),
    ("é" * 32_769, "too_long"),
    ("••••••••", "mask"),
    ("********", "mask"),
    ("sk_live_****7dc9", "mask"),
    ("<Ciphertext 0123abcd>", "mask"),
    (7, "invalid"),
    (True, "invalid"),
    ([CANARY], "invalid"),
    ({"set": True}, "invalid"),
    ({CANARY: CANARY}, "invalid"),
]


@pytest.mark.parametrize(("sent", "code"), REFUSED, ids=range(len(REFUSED)))
def test_a_text_that_is_no_secret_is_refused(db: None, sent: object, code: str) -> None:
    note = NoteFactory(secret=OTHER)
    serializer = patched(note, secret=sent)
    assert codes(serializer) == [code]
    assert CANARY not in str(serializer.errors)
    assert fresh(note).secret == OTHER


@pytest.mark.parametrize("value", [{}, [], 0, False, {"a": [1, "set", None]}, "text"])
def test_json_is_stored_with_its_type(db: None, value: object) -> None:
    note = NoteFactory(data=None)
    assert patched(note, data=value).errors == {}
    assert fresh(note).data == value
    assert type(fresh(note).data) is type(value)


REFUSED_JSON = [
    ("", "invalid"),
    (float("nan"), "invalid_json"),
    ({"a": "\ud800"}, "surrogate"),
    ({"a": "\0"}, "null_character"),
    ("x" * 65_535, "too_long"),
    ({"set": True}, "mask"),
    ({"api_key": {"set": False}}, "mask"),
    ({"api_key": "••••••••"}, "mask"),
]


@pytest.mark.parametrize(("sent", "code"), REFUSED_JSON, ids=range(len(REFUSED_JSON)))
def test_json_that_is_no_secret_is_refused(db: None, sent: object, code: str) -> None:
    note = NoteFactory(data=[OTHER])
    assert codes(patched(note, data=sent), "data") == [code]
    assert fresh(note).data == [OTHER]


def test_a_validator_that_quotes_the_value_is_not_quoted() -> None:
    def refuse(value: str) -> None:
        raise DjangoValidationError("%(value)s is bad", params={"value": value})

    def refuse_politely(value: str) -> None:
        raise serializers.ValidationError("Too weak.", code="weak")

    class Serializer(serializers.Serializer):
        secret = SecretSerializerField(validators=[refuse, refuse_politely])

    serializer = Serializer(data={"secret": CANARY})
    assert not serializer.is_valid()
    assert serializer.errors == {"secret": ["Enter a valid value.", "Too weak."]}


def test_an_html_form_that_leaves_a_secret_empty_keeps_it(db: None) -> None:
    note = NoteFactory(secret=CANARY, data=[CANARY])
    sent = QueryDict(f"tenant={note.tenant_id}&note=new&secret=&data=")
    for partial in (True, False):
        serializer = NoteSerializer(fresh(note), data=sent, partial=partial)
        assert serializer.is_valid(), serializer.errors
        serializer.save()
    assert fresh(note).note == "new"
    assert fresh(note).secret == CANARY
    assert fresh(note).data == [CANARY]
    sent = QueryDict(f'secret={OTHER}&data={{"a":1}}')
    assert patched_with(note, sent).errors == {}
    assert fresh(note).secret == OTHER
    assert fresh(note).data == {"a": 1}
    assert codes(patched_with(note, QueryDict('data={"a":')), "data") == ["invalid_json"]


def patched_with(note: Note, data: Any) -> Any:
    serializer = NoteSerializer(fresh(note), data=data, partial=True)
    if serializer.is_valid():
        serializer.save()
    return serializer


# -- over HTTP ------------------------------------------------------------------------------------


class NoteViewSet(ModelViewSet):
    """With REST framework's own defaults, whatever the settings of the tests are."""

    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer
    permission_classes = [AllowAny]
    authentication_classes = []
    filter_backends = []
    pagination_class = None
    parser_classes = [JSONParser, FormParser]
    throttle_classes = []
    renderer_classes = [JSONRenderer, BrowsableAPIRenderer]


class CredentialsViewSet(NoteViewSet):
    serializer_class = CredentialsSerializer


router = SimpleRouter()
router.register("notes", NoteViewSet, "note")
router.register("credentials", CredentialsViewSet, "credential")
urlpatterns = [path("", include(router.urls))]


FORM_TYPE = "application/x-www-form-urlencoded"
FORM = f"tenant=0&secret={CANARY}&data={CANARY}&data.api_key={CANARY}"


@override_settings(ROOT_URLCONF=__name__)
def test_no_answer_in_json_or_html_holds_a_secret(db: None) -> None:
    note = NoteFactory(secret=CANARY, data={"api_key": CANARY})
    body = {"tenant": note.tenant_id, "secret": CANARY, "data": {"api_key": CANARY}}
    client = APIClient()
    for accept in ("application/json", "text/html"):
        for prefix in ("notes", "credentials"):
            address = f"/{prefix}/{note.pk}/"
            answers = [
                client.get(f"/{prefix}/", headers={"accept": accept}),
                client.get(address, headers={"accept": accept}),
                client.options(address, headers={"accept": accept}),
                client.post(f"/{prefix}/", body, "json", headers={"accept": accept}),
                client.put(address, body, "json", headers={"accept": accept}),
                client.patch(address, body, "json", headers={"accept": accept}),
                client.put(address, {**body, "tenant": 0}, "json", headers={"accept": accept}),
                client.post(
                    f"/{prefix}/", FORM, content_type=FORM_TYPE, headers={"accept": accept}
                ),
            ]
            assert [answer.status_code for answer in answers][:6] == [200] * 3 + [201] + [200] * 2
            assert [answer.status_code for answer in answers][6:] == [400] * 2
            for answer in answers:
                assert CANARY not in answer.content.decode()
                assert stored(note, "secret") not in answer.content.decode()


def test_the_form_of_the_browsable_api_holds_no_secret(db: None) -> None:
    note = NoteFactory(secret=OTHER)
    bad = NoteSerializer(note, data={"secret": CANARY, "data": [CANARY], "tenant": 0})
    assert not bad.is_valid()
    for serializer in (bad, NoteSerializer(note)):
        page = HTMLFormRenderer().render(serializer.data, renderer_context={})
        assert 'type="password" name="secret"' in page
        assert 'textarea name="data"' in page
        assert CANARY not in page
        assert OTHER not in page
        assert "{&#x27;set&#x27;" not in page


@override_settings(ROOT_URLCONF=__name__)
def test_the_openapi_document_tells_what_goes_in_and_what_comes_out() -> None:
    schema = SchemaGenerator().get_schema(request=None, public=True)
    schemas = schema["components"]["schemas"]
    presence = {
        "type": "object",
        "properties": {"set": {"type": "boolean"}},
        "required": ["set"],
        "additionalProperties": False,
    }
    read = schemas["Note"]["properties"]["secret"]
    assert {**presence, **read} == read
    written = schemas["NoteRequest"]["properties"]["secret"]
    assert written["format"] == "password"
    assert written["maxLength"] == 65_536
    member = schemas["CredentialsRequest"]["properties"]["data"]["properties"]["api_key"]
    assert member["type"] == ["string", "null"]
    assert set(schemas["Credentials"]["properties"]["data"]["properties"]) == {
        "api_key",
        "webhook_secret",
    }


# -- named credentials ----------------------------------------------------------------------------


def test_credentials_are_read_as_names(db: None) -> None:
    note = NoteFactory(data={"api_key": CANARY, "unknown": CANARY})
    expected = {"api_key": {"set": True}, "webhook_secret": {"set": False}}
    assert CredentialsSerializer(fresh(note)).data["data"] == expected
    note = NoteFactory(data=None)
    expected["api_key"] = {"set": False}
    assert CredentialsSerializer(note).data["data"] == expected


@pytest.mark.parametrize("unreadable", ["poisoned", "a list"])
def test_credentials_that_cannot_be_read_are_told_as_such(db: None, unreadable: str) -> None:
    note = NoteFactory(data=[CANARY])
    if unreadable == "poisoned":
        poison(note, "data")
    expected = {"api_key": {"set": None}, "webhook_secret": {"set": None}}
    assert CredentialsSerializer(fresh(note)).data["data"] == expected
    part = patched(note, CredentialsSerializer, data={"api_key": CANARY})
    assert codes(part, "data") == ["unreadable"]
    assert "api_key, webhook_secret" in str(part.errors)
    everything = {"api_key": CANARY, "webhook_secret": None}
    assert patched(note, CredentialsSerializer, data=everything).errors == {}
    assert fresh(note).data == {"api_key": CANARY}


def test_credentials_are_kept_replaced_cleared_one_by_one(db: None) -> None:
    note = NoteFactory(data={"api_key": OTHER, "webhook_secret": OTHER, "unknown": OTHER})
    assert patched(note, CredentialsSerializer, data={"api_key": CANARY}).errors == {}
    assert fresh(note).data == {"api_key": CANARY, "webhook_secret": OTHER, "unknown": OTHER}
    assert patched(note, CredentialsSerializer, data={"webhook_secret": None}).errors == {}
    assert fresh(note).data == {"api_key": CANARY, "unknown": OTHER}
    before = stored(note, "data")
    assert patched(note, CredentialsSerializer, data={}).errors == {}
    assert patched(note, CredentialsSerializer).errors == {}
    assert stored(note, "data") == before


def test_credentials_are_created(db: None) -> None:
    tenant = TenantFactory().pk
    serializer = CredentialsSerializer(
        data={"tenant": tenant, "data": {"api_key": CANARY, "webhook_secret": None}}
    )
    assert serializer.is_valid(), serializer.errors
    assert fresh(serializer.save()).data == {"api_key": CANARY}
    missing = CredentialsSerializer(data={"tenant": tenant, "data": {"webhook_secret": CANARY}})
    assert not missing.is_valid()
    assert codes(missing, "data") == {"api_key": ["required"]}


REFUSED_CREDENTIALS = [
    ({"api_key": ""}, {"api_key": ["blank"]}),
    ({"api_key": "••••••••"}, {"api_key": ["mask"]}),
    ({"api_key": {"set": True}}, {"api_key": ["invalid"]}),
    (
        {"api_key": 7, "webhook_secret": "a\0"},
        {"api_key": ["invalid"], "webhook_secret": ["null_character"]},
    ),
    ({"api_key": "a\ud800"}, {"api_key": ["surrogate"]}),
    ({"api_key": "x" * 65_537}, {"api_key": ["too_long"]}),
    ({"api_key": None}, {"api_key": ["required"]}),
    ({"unknown": "x"}, ["unknown_name"]),
    ({CANARY: CANARY}, ["unknown_name"]),
    ([CANARY], ["not_a_dict"]),
    (CANARY, ["not_a_dict"]),
    (None, ["null"]),
]


@pytest.mark.parametrize(
    ("sent", "expected"), REFUSED_CREDENTIALS, ids=range(len(REFUSED_CREDENTIALS))
)
def test_credentials_that_are_none_are_refused(db: None, sent: object, expected: object) -> None:
    note = NoteFactory(data={"api_key": OTHER, "unknown": OTHER})
    serializer = patched(note, CredentialsSerializer, data=sent)
    assert codes(serializer, "data") == expected
    assert CANARY not in str(serializer.errors)
    assert fresh(note).data == {"api_key": OTHER, "unknown": OTHER}


def test_the_names_may_depend_on_the_row(db: None) -> None:
    def names(field: CredentialsField, row: Note | None) -> list[str]:
        service = row.note if row else field.parent.initial_data.get("note")
        return {"stripe": ["api_key"], "github": ["token"]}[service]

    class Serializer(serializers.ModelSerializer):
        data = CredentialsField(names=names, required_names=names)

        class Meta:
            model = Note
            fields = ["tenant", "note", "data"]

    body = {"tenant": TenantFactory().pk, "note": "github", "data": {"token": CANARY}}
    serializer = Serializer(data=body)
    assert serializer.is_valid(), serializer.errors
    note = serializer.save()
    assert codes(patched(note, Serializer, data={"api_key": "x"}), "data") == ["unknown_name"]
    NoteFactory(note="stripe", data=None)
    many = Serializer(Note.objects.order_by("pk"), many=True).data
    assert [row["data"] for row in many] == [{"token": {"set": True}}, {"api_key": {"set": False}}]


def test_credentials_of_an_html_form(db: None) -> None:
    note = NoteFactory(data={"api_key": OTHER, "webhook_secret": OTHER})
    sent = QueryDict(f"data.api_key={CANARY}&data.webhook_secret=")
    serializer = CredentialsSerializer(fresh(note), data=sent, partial=True)
    assert serializer.is_valid(), serializer.errors
    serializer.save()
    assert fresh(note).data == {"api_key": CANARY, "webhook_secret": OTHER}


# -- optional -------------------------------------------------------------------------------------


def test_a_model_serializer_takes_our_fields_by_itself() -> None:
    fields = NoteSerializer().fields
    assert type(fields["secret"]) is SecretSerializerField
    assert type(fields["data"]) is SecretJSONSerializerField


def test_encryption_works_where_rest_framework_is_not_installed() -> None:
    program = """
import sys
sys.modules.update(rest_framework=None, drf_spectacular=None)  # an import of it fails
from django.conf import settings
settings.configure(INSTALLED_APPS=["encryption"])
import django
django.setup()
import encryption.fields, encryption.forms
assert sys.modules["rest_framework"] is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
