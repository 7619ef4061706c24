from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_framework.test import APIClient

from apikeys import usage

from .factories import ApiKeyFactory, ProjectFactory, UserFactory


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """No test sees which keys another one used."""
    usage._written.clear()
    yield
    usage._written.clear()


@pytest.fixture
def project(db):
    return ProjectFactory()


@pytest.fixture
def user(db):
    return UserFactory()


@pytest.fixture
def key(project):
    return ApiKeyFactory(project=project)


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def owner(project) -> APIClient:
    """A client that the project's owner has logged in with."""
    client = APIClient()
    client.force_login(project.owner)
    return client


@pytest.fixture
def bearer() -> Callable[[str], APIClient]:
    """A client that sends a text as its key."""

    def make(text: str, **extra: Any) -> APIClient:
        client = APIClient(**extra)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
        return client

    return make
