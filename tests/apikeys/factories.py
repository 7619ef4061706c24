"""What the tests of API keys are about, as it is in the database."""

from typing import Any

import factory
from factory.django import DjangoModelFactory

from apikeys.models import Actor, AIKey, ApiKey
from apikeys.tokens import Token
from tests.projects.factories import ProjectFactory, UserFactory

OPERATOR = Actor("test")

#: Every call of the API that is about a project's keys: method, and path below the list of them.
CALLS = [
    ("get", ""),
    ("post", ""),
    ("get", "{key}/"),
    ("patch", "{key}/"),
    ("delete", "{key}/"),
    ("post", "{key}/rotate/"),
    ("post", "{key}/revoke/"),
]


class AIKeyFactory(DjangoModelFactory):
    class Meta:
        model = AIKey

    user = factory.SubFactory(UserFactory)
    provider = AIKey.Provider.OPENAI
    api_key = factory.Sequence(lambda number: f"sk-proj-{number:040d}")


class ApiKeyFactory(DjangoModelFactory):
    """A key made the only way there is; ``issued(...)`` gives the token as well."""

    class Meta:
        model = ApiKey

    project = factory.SubFactory(ProjectFactory)
    name = factory.Sequence(lambda number: f"key {number}")
    scopes = ("projects:read",)
    by = OPERATOR

    @classmethod
    def _create(cls, _model: type[ApiKey], *_args: Any, **kwargs: Any) -> ApiKey:
        key, key.issued_token = ApiKey.objects.issue(**kwargs)
        return key


def issued(**kwargs: Any) -> tuple[ApiKey, Token]:
    key = ApiKeyFactory(**kwargs)
    return key, key.issued_token
