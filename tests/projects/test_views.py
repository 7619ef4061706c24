import pytest
from rest_framework.test import APIClient

from apikeys.models import Actor, ApiKey, ApiKeyEvent
from connections.models import CredentialEvent
from projects.models import Membership, Project
from projects.roles import Role
from tests.apikeys.factories import OPERATOR, ApiKeyFactory
from tests.connections.factories import CANARY, ConnectionFactory
from tests.projects.factories import ProjectFactory, UserFactory, member

pytestmark = pytest.mark.django_db
LIST = "/api/v1/projects/"


def client_of(user):
    client = APIClient()
    client.force_login(user)
    return client


def codes(response):
    return {(error["attr"], error["code"]) for error in response.json()["errors"]}


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def url(project):
    return f"{LIST}{project.pk}/"


def test_who_creates_a_project_owns_it():
    user = UserFactory()
    response = client_of(user).post(LIST, {"name": "Shop"})
    assert response.status_code == 201
    assert (response.json()["owner"], response.json()["role"]) == (user.username, "owner")
    project = Project.objects.get()
    assert project.owner == user
    assert project.role_of(user) == Role.OWNER


def test_the_list_has_the_own_projects_and_the_own_roles(project):
    ProjectFactory()
    user = member(project, Role.VIEWER)
    (shown,) = client_of(user).get(LIST).json()["results"]
    assert (shown["id"], shown["role"]) == (str(project.pk), "viewer")


def test_the_list_costs_the_same_for_many(project, django_assert_num_queries):
    user = member(project, Role.VIEWER)
    client = client_of(user)
    for _ in range(20):
        Membership.objects.create(project=ProjectFactory(), user=user, role=Role.ADMIN)
    with django_assert_num_queries(3):  # session, user, projects
        assert len(client.get(LIST).json()["results"]) == 21


@pytest.mark.parametrize(
    ("role", "rename", "add", "delete"),
    [
        (Role.ADMIN, 200, 201, 403),
        (Role.MEMBER, 403, 403, 403),
        (Role.VIEWER, 403, 403, 403),
    ],
)
def test_roles(project, url, role, rename, add, delete):
    client = client_of(member(project, role))
    body = {"user": UserFactory().username, "role": "viewer"}
    assert client.get(url).json()["role"] == role
    assert client.get(f"{url}members/").status_code == 200
    assert client.patch(url, {"name": "New"}).status_code == rename
    assert client.post(f"{url}members/", body).status_code == add
    refused = client.delete(url)
    assert refused.status_code == delete
    assert codes(refused) == {(None, "role_required")}


def test_the_owner_deletes_the_project(project, url):
    assert client_of(project.owner).delete(url).status_code == 204
    assert not Project.objects.exists()


def test_what_is_deleted_with_a_project_is_recorded(project, url):
    key, connection = ApiKeyFactory(project=project), ConnectionFactory(project=project)
    removed = ApiKeyFactory(project=project)
    removed.remove(by=OPERATOR)
    client_of(project.owner).delete(url)
    actor = f"user:{project.owner.pk}"
    deleted = ApiKeyEvent.objects.filter(kind="deleted", project_id=project.pk).order_by("pk")
    assert [(one.api_key_id, one.actor) for one in deleted] == [
        (removed.pk, OPERATOR.name),
        (key.pk, actor),
    ]
    event = CredentialEvent.objects.get(project_id=project.pk)
    assert (event.action, event.actor) == ("delete", actor)
    assert (event.connection_ref, event.connection_name) == (connection.pk, connection.name)


def test_put_is_not_offered(project, url):
    assert client_of(member(project, Role.VIEWER)).put(url, {"name": "x"}).status_code == 405


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("name", "required")),
        ({"name": ""}, ("name", "blank")),
        ({"name": "x" * 201}, ("name", "max_length")),
        ({"name": 5}, ("name", "invalid")),
        ({"name": True}, ("name", "invalid")),
        ({"name": "x", CANARY: 1}, ("non_field_errors", "unknown_field")),
        ({"name": "x", "owner": CANARY}, ("owner", "read_only_field")),
        ({"name": "x", "id": CANARY}, ("id", "read_only_field")),
        ({"name": "x", "role": CANARY}, ("role", "read_only_field")),
    ],
)
def test_bad_input_is_refused_and_never_repeated(body, expected):
    response = client_of(UserFactory()).post(LIST, body)
    assert response.status_code == 400
    assert expected in codes(response)
    assert CANARY not in response.content.decode()


def test_members_are_added_changed_and_removed(project, url):
    client = client_of(project.owner)
    user = UserFactory()
    added = client.post(f"{url}members/", {"user": user.username, "role": "viewer"})
    assert added.status_code == 201
    address = f"{url}members/{added.json()['id']}/"
    assert client.patch(address, {"role": "admin"}).json()["role"] == "admin"
    assert project.role_of(user) == Role.ADMIN
    assert codes(client.patch(address, {"user": UserFactory().username})) == {("user", "immutable")}
    assert client.delete(address).status_code == 204
    assert project.role_of(user) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"user": CANARY, "role": "viewer"}, ("user", "does_not_exist")),
        ({"user": 5, "role": "viewer"}, ("user", "does_not_exist")),
        ({"role": "viewer"}, ("user", "required")),
        ({"user": "twice", "role": "owner"}, ("role", "not_grantable")),
        ({"user": "twice", "role": "viewer"}, ("user", "unique")),
        ({"user": "gone", "role": "viewer"}, ("user", "does_not_exist")),
    ],
)
def test_members_that_cannot_be_added(project, url, body, expected):
    member(project, Role.VIEWER, username="twice")
    UserFactory(username="gone", is_active=False)
    response = client_of(project.owner).post(f"{url}members/", body)
    assert response.status_code == 400
    assert expected in codes(response)
    assert CANARY not in response.content.decode()


def test_the_owner_stays_the_owner(project, url):
    admin = client_of(member(project, Role.ADMIN))
    address = f"{url}members/{project.memberships.get(role=Role.OWNER).pk}/"
    for response in (admin.patch(address, {"role": "viewer"}), admin.delete(address)):
        assert response.status_code == 409
        assert codes(response) == {(None, "is_owner")}
    assert project.role_of(project.owner) == Role.OWNER


def test_an_api_key_sees_its_project_and_manages_nothing(project, url):
    ProjectFactory()
    _, token = ApiKey.objects.issue(
        project=project, name="key", scopes=["projects:read"], by=Actor("user:0")
    )
    client = APIClient(headers={"Authorization": f"Bearer {token.plaintext}"})
    (shown,) = client.get(LIST).json()["results"]
    assert (shown["id"], shown["role"]) == (str(project.pk), None)
    assert client.get(url).status_code == 200
    assert client.get(f"{url}members/").status_code == 200
    for response in (
        client.post(LIST, {"name": "x"}),
        client.patch(url, {"name": "x"}),
        client.delete(url),
        client.post(f"{url}members/", {"user": "x", "role": "viewer"}),
    ):
        assert response.status_code == 403
    assert codes(client.get(f"{url}connections/")) == {(None, "scope_required")}
