"""Credentials that are used twice: told, and never forbidden."""

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from rest_framework.test import APIClient

from connections.models import Connection
from projects.roles import Role
from tests.connections.factories import CANARY, ConnectionFactory, poison
from tests.encryption.matching import expect_indexes
from tests.projects.factories import ProjectFactory, member

pytestmark = pytest.mark.django_db

LIST = reverse("admin:connections_connection_changelist")
SAME = {"api_key": f"rk_live_{CANARY}"}


@pytest.fixture
def project():
    return ProjectFactory(name="Shop")


def url(project, connection=None):
    address = f"/api/v1/projects/{project.pk}/connections/"
    return address if connection is None else f"{address}{connection.pk}/"


def admin_of(project, role=Role.OWNER, *others):
    user = member(project, role, is_staff=True)
    for other in others:
        other.memberships.create(user=user, role=role)
    names = ("view_connection", "change_connection", "add_connection")
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    return user


def test_the_same_credentials_are_found_across_projects(project):
    one, two = ConnectionFactory(project=project), ConnectionFactory()
    other = ConnectionFactory(project=project, credentials={"api_key": "another"})
    assert one.credentials_index == two.credentials_index != other.credentials_index
    assert list(one.with_same_credentials()) == [two]
    assert set(Connection.objects.sharing_credentials()) == {one, two}
    assert not other.with_same_credentials().exists()
    expect_indexes(Connection)


def test_credentials_that_are_not_set_equal_no_others(project):
    empty = [ConnectionFactory(project=project, credentials={}) for _ in range(2)]
    cleared = ConnectionFactory(project=project, credentials={"api_key": None})
    assert not empty[0].with_same_credentials().exists()
    assert not cleared.with_same_credentials().exists()
    assert not Connection.objects.sharing_credentials().exists()


def test_unreadable_credentials_equal_no_others(project):
    one, two = ConnectionFactory(project=project), ConnectionFactory(project=project)
    poison(one)
    assert not Connection.objects.get(pk=one.pk).with_same_credentials().exists()
    assert list(two.with_same_credentials()) == [one]  # the database cannot know


def test_the_api_warns_and_stores(project):
    client = APIClient()
    client.force_login(member(project, Role.ADMIN))
    ConnectionFactory(credentials=SAME)  # in a project that is not theirs
    body = {"service": "stripe", "name": "First", "credentials": SAME}
    first = client.post(url(project), body, format="json")
    assert first.status_code == 201, first.json()
    assert first.json()["warnings"] == []
    second = client.post(url(project), {**body, "name": "Second"}, format="json")
    assert second.status_code == 201
    assert second.json()["warnings"] == [
        'The connection "First" of this project has the same credentials.'
    ]
    assert CANARY not in second.content.decode()
    connection = Connection.objects.get(name="Second")
    changed = client.patch(url(project, connection), {"name": "Third"}, format="json")
    assert changed.json()["warnings"]
    # What it warns of is about others, so a client's ETag holds.
    assert changed["ETag"] == client.get(url(project, connection))["ETag"]
    assert "warnings" not in client.get(url(project, connection)).json()
    changed = client.patch(
        url(project, connection), {"credentials": {"api_key": "rk_live_another"}}, format="json"
    )
    assert changed.json()["warnings"] == []
    assert "b2:" not in changed.content.decode()
    expect_indexes(Connection)


def test_the_owner_finds_them_in_the_admin(client, project):
    elsewhere, foreign = ProjectFactory(name="Depot"), ProjectFactory(name="Stranger")
    one = ConnectionFactory(project=project, name="Payments")
    two = ConnectionFactory(project=elsewhere, name="Refunds")
    ConnectionFactory(project=foreign, name="Secretly the same")
    alone = ConnectionFactory(project=project, name="Alone", credentials={"api_key": "x"})
    client.force_login(admin_of(project, Role.OWNER, elsewhere))
    page = reverse("admin:connections_connection_change", args=[one.pk])
    text = client.get(page).content.decode()
    assert "Depot: Refunds" in text
    assert "Stranger" not in text
    listed = client.get(LIST, {"shared": "yes"}).context["cl"].result_list
    assert {row.pk for row in listed} == {one.pk, two.pk}
    page = reverse("admin:connections_connection_change", args=[alone.pk])
    assert "same credentials" not in client.get(page).content.decode()


def test_who_owns_only_one_of_the_projects_learns_nothing_of_the_other(client, project):
    elsewhere = ProjectFactory(name="Depot")
    one = ConnectionFactory(project=project)
    ConnectionFactory(project=elsewhere, name="Refunds")
    client.force_login(admin_of(project, Role.OWNER))
    page = reverse("admin:connections_connection_change", args=[one.pk])
    assert "Refunds" not in client.get(page).content.decode()
    assert not client.get(LIST, {"shared": "yes"}).context["cl"].result_list


def test_a_member_of_both_is_not_told(client, project):
    elsewhere = ProjectFactory(name="Depot")
    one = ConnectionFactory(project=project)
    ConnectionFactory(project=elsewhere, name="Refunds")
    client.force_login(admin_of(project, Role.MEMBER, elsewhere))
    page = reverse("admin:connections_connection_change", args=[one.pk])
    assert "Refunds" not in client.get(page).content.decode()
    assert not client.get(LIST, {"shared": "yes"}).context["cl"].result_list


def test_the_admin_warns_and_stores(client, project):
    client.force_login(User.objects.create_superuser("root", password="a long password"))
    ConnectionFactory(project=project, name="First")
    response = client.post(
        f"{reverse('admin:connections_connection_add')}?service=stripe",
        {
            "project": project.pk,
            "name": "Second",
            "status": "active",
            "credential_api_key": SAME["api_key"],
        },
        follow=True,
    )
    text = response.content.decode()
    assert "First of this project has the same credentials." in text
    assert CANARY not in text
    assert Connection.objects.filter(name="Second").exists()
