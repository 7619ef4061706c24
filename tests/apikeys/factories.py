"""What the tests of API keys are about, as it is in the database."""

from typing import Any

import factory
from django.contrib.auth import get_user_model
from factory.django import DjangoModelFactory

from apikeys.models import Actor, AIKey, ApiKey
from apikeys.tokens import Token
from projects.models import Membership, Project
from projects.roles import Role

OPERATOR = Actor("test")


class UserFactory(DjangoModelFactory):
    class Meta:
        model = get_user_model()

    username = factory.Sequence(lambda number: f"user{number}")


class ProjectFactory(DjangoModelFactory):
    class Meta:
        model = Project

    name = factory.Sequence(lambda number: f"Project {number}")
    owner = factory.SubFactory(UserFactory)


class MembershipFactory(DjangoModelFactory):
    class Meta:
        model = Membership

    project = factory.SubFactory(ProjectFactory)
    user = factory.SubFactory(UserFactory)
    role = Role.VIEWER


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
