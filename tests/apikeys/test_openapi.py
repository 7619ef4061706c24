import re

import pytest
from django.urls import get_resolver
from drf_spectacular.generators import SchemaGenerator

from apikeys import tokens
from apikeys.scopes import Scope


@pytest.fixture(scope="module")
def schema():
    return SchemaGenerator(api_version="v1").get_schema(public=True)


def operations(schema):
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                yield f"{method} {path}", operation


def test_it_says_how_a_key_is_sent(schema) -> None:
    scheme = schema["components"]["securitySchemes"]["apiKey"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    [pattern] = re.findall("`(.*)`", scheme["description"])
    assert re.findall(pattern, f"x {tokens.generate().plaintext} y")


def test_only_two_replies_hold_a_key(schema) -> None:
    [response] = [
        name
        for name, component in schema["components"]["schemas"].items()
        if "key" in component.get("properties", {})
    ]
    assert response == "NewApiKey"
    holders = {
        name
        for name, operation in operations(schema)
        if "#/components/schemas/NewApiKey'" in str(operation["responses"])
    }
    root = "post /api/v1/projects/{project_id}/api-keys/"
    assert holders == {root, f"{root}{{api_key_id}}/rotate/"}


def test_no_schema_has_a_hash(schema) -> None:
    assert "key_hash" not in str(schema)


def test_an_ai_key_is_only_ever_sent(schema) -> None:
    field = schema["components"]["schemas"]["NewAIKeyRequest"]["properties"]["api_key"]
    assert field["writeOnly"]
    for name in ("AIKey", "NewAIKey"):
        assert "api_key" not in schema["components"]["schemas"][name]["properties"]


def test_the_scopes_are_listed(schema) -> None:
    assert schema["components"]["schemas"]["ScopesEnum"]["enum"] == Scope.values


def test_every_scope_opens_something() -> None:
    """A scope that no endpoint asks for would promise what it does not keep."""

    def patterns(resolver):
        for one in resolver.url_patterns:
            if hasattr(one, "url_patterns"):
                yield from patterns(one)
            else:
                yield one

    views = {getattr(one.callback, "cls", None) for one in patterns(get_resolver())}
    asked = {scope for view in views for scope in getattr(view, "required_scopes", {}).values()}
    assert asked == set(Scope.values)
