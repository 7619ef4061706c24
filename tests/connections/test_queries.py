"""What lists cost: the same for one connection and for a hundred, and no cryptography."""

import pytest
from django.contrib.auth.models import User
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from rest_framework.test import APIClient

from encryption.core.keyring import Keyring
from projects.roles import Role
from tests.connections.factories import ConnectionFactory
from tests.projects.factories import ProjectFactory, member

pytestmark = pytest.mark.django_db


@pytest.fixture
def decryptions(monkeypatch):
    """What was decrypted while the test ran."""
    seen = []
    original = Keyring.decrypt

    def decrypt(self, *args, **kwargs):
        seen.append(args[0])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Keyring, "decrypt", decrypt)
    return seen


def queries_of(client, address):
    with CaptureQueriesContext(
        database,
    ) as queries:
        response = client.get(address)
    assert response.status_code == 200
    return len(queries), response


def test_the_list_of_a_hundred(decryptions):
    project = ProjectFactory()
    client = APIClient()
    client.force_login(member(project, Role.VIEWER))
    address = f"/api/v1/projects/{project.pk}/connections/?page_size=100"
    ConnectionFactory(project=project, prometheus=True)
    queries_of(client, address)
    one, _ = queries_of(client, address)
    for number in range(99):
        ConnectionFactory(project=project, github=number % 2 == 0)
    del decryptions[:]
    hundred, response = queries_of(client, address)
    assert len(response.json()["results"]) == 100
    assert hundred == one <= 5
    assert decryptions == []
    client.get(f"/api/v1/projects/{project.pk}/connections/{response.json()['results'][0]['id']}/")
    assert len(decryptions) == 1


def test_the_list_of_the_admin(client, decryptions):
    client.force_login(User.objects.create_superuser("root"))
    address = reverse("admin:connections_connection_changelist")
    project = ProjectFactory()
    ConnectionFactory(project=project)
    queries_of(client, address)
    one, _ = queries_of(client, address)
    for _ in range(99):
        ConnectionFactory(project=project)
    del decryptions[:]
    hundred, _ = queries_of(client, address)
    assert hundred == one
    assert decryptions == []
