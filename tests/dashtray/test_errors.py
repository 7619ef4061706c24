from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError as DjangoValidationError
from rest_framework import exceptions, serializers
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.test import APIClient, APIRequestFactory

from dashtray.errors import QuietExceptionFormatter

CANARY = "sk_live_canary_4eC39HqLyjWDarjtT1zdp7dc"

FIELDS: dict[str, serializers.Field[Any, Any, Any, Any]] = {
    "boolean": serializers.BooleanField(),
    "choice": serializers.ChoiceField(["a", "b"]),
    "choices": serializers.MultipleChoiceField(choices=["a", "b"]),
    "date": serializers.DateField(),
    "datetime": serializers.DateTimeField(),
    "decimal": serializers.DecimalField(max_digits=5, decimal_places=2),
    "dict": serializers.DictField(),
    "duration": serializers.DurationField(),
    "email": serializers.EmailField(),
    "float": serializers.FloatField(),
    "integer": serializers.IntegerField(),
    "ip": serializers.IPAddressField(),
    "list": serializers.ListField(),
    "list_of_choices": serializers.ListField(child=serializers.ChoiceField(["a"])),
    "regex": serializers.RegexField("^$"),
    "short": serializers.CharField(max_length=3),
    "slug_related": serializers.SlugRelatedField("username", queryset=User.objects.all()),
    "time": serializers.TimeField(),
    "url": serializers.URLField(),
    "uuid": serializers.UUIDField(),
}


def formatted(error: exceptions.APIException, data: Any = None, query: str = "") -> dict[str, Any]:
    request = Request(
        APIRequestFactory().post(f"/?{query}", data or {}, format="json"), parsers=[JSONParser()]
    )
    reply: dict[str, Any] = QuietExceptionFormatter(error, {"request": request}, error).run()
    return reply


@pytest.mark.django_db
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "value", [CANARY, [CANARY], {CANARY: CANARY}], ids=["text", "list", "dict"]
)
def test_no_field_of_the_framework_quotes_its_input(name: str, value: Any) -> None:
    serializer_class = type("S", (serializers.Serializer,), {"field": FIELDS[name]})
    serializer = serializer_class(data={"field": value})
    if serializer.is_valid():
        assert name in {"dict", "list"}
        return
    reply = formatted(exceptions.ValidationError(serializer.errors), {"field": value})
    assert [error["attr"].partition(".")[0] for error in reply["errors"]] == ["field"]
    assert CANARY not in str(reply)


@pytest.mark.parametrize(
    ("data", "query"),
    [({"a": [{"b": CANARY}]}, ""), ({}, f"q={CANARY}")],
    ids=["nested in the body", "in the query"],
)
def test_a_validator_that_quotes_the_value_is_silenced(data: Any, query: str) -> None:
    error = exceptions.ValidationError({"key": f"“{CANARY}” is no key."}, code="made_up")
    reply = formatted(error, data, query)
    assert reply["errors"] == [
        {"code": "made_up", "detail": "This value is not valid.", "attr": "key"}
    ]


def test_other_texts_stay_as_they_are() -> None:
    error = exceptions.ValidationError({"key": "No space is allowed in a key."})
    reply = formatted(error, {"key": CANARY, "short": "key"})
    assert reply["errors"][0]["detail"] == "No space is allowed in a key."


def test_an_error_of_the_model_layer_is_silenced() -> None:
    error = DjangoValidationError("%(value)s is odd", params={"value": CANARY}, code="odd")
    detail = serializers.as_serializer_error(error)
    assert CANARY not in str(formatted(exceptions.ValidationError(detail), {"n": CANARY}))


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "options"])
def test_an_unknown_address_of_the_api_has_the_shape_of_its_errors(
    client: APIClient, method: str
) -> None:
    response = getattr(client, method)(f"/api/v1/{CANARY}")
    assert response.status_code == 404
    assert response.json() == {
        "type": "client_error",
        "errors": [{"code": "not_found", "detail": "Not found.", "attr": None}],
    }


@pytest.mark.parametrize(
    "error", [exceptions.MethodNotAllowed(CANARY), exceptions.UnsupportedMediaType(CANARY)]
)
def test_headers_are_not_quoted(error: exceptions.APIException) -> None:
    assert CANARY not in str(formatted(error))
