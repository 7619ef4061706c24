import re
import threading
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection as database, connections as databases
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from connections.admin.connection import ConnectionAdmin
from connections.models import Connection, CredentialEvent, Metric
from projects.admin import ProjectScopedAdmin
from projects.models import Project
from projects.roles import Role
from tests.connections.factories import CANARY, ConnectionFactory, poison
from tests.projects.factories import ProjectFactory, member

pytestmark = pytest.mark.django_db

ADD = reverse("admin:connections_connection_add")
LIST = reverse("admin:connections_connection_changelist")


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def client(client):
    client.force_login(User.objects.create_superuser("root", password="a long password"))
    return client


def page(connection, name="change"):
    return reverse(f"admin:connections_connection_{name}", args=[connection.pk])


def staff(project, role, *codenames):
    user = member(project, role, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


def problems(response):
    form = response.context["adminform"].form
    return {name: [e.code for e in errors.as_data()] for name, errors in form.errors.items()}


def test_the_service_is_chosen_first(client):
    text = client.get(ADD).content.decode()
    assert re.findall(r'href="\?service=(\w+)"', text) == ["github", "prometheus", "stripe"]


def test_a_connection_is_created_with_the_form_of_its_service(client, project):
    address = f"{ADD}?service=github"
    text = client.get(address).content.decode()
    assert "config_owner" in text
    assert "credential_token" in text
    assert "config_base_url" not in text
    response = client.post(
        address,
        {
            "project": project.pk,
            "name": "Shop",
            "status": "active",
            "config_owner": "acme",
            "config_repositories": "shop, site",
            "credential_token": f"ghp_{CANARY}",
        },
    )
    assert response.status_code == 302, problems(response)
    connection = Connection.objects.get()
    assert connection.service == "github"
    assert connection.config == {"owner": "acme", "repositories": ["shop", "site"]}
    assert connection.credentials == {"token": f"ghp_{CANARY}"}
    assert CredentialEvent.objects.get().action == "create"
    text = client.get(page(connection)).content.decode()
    assert 'value="shop site"' in text
    assert CANARY not in text


def test_a_form_that_comes_back_does_not_show_what_was_typed(client, project):
    response = client.post(
        f"{ADD}?service=github",
        {"project": project.pk, "name": "", "status": "active", "credential_token": CANARY},
    )
    assert response.status_code == 200
    assert {"name", "config_owner"} <= set(problems(response))
    assert CANARY not in response.content.decode()


def data(connection, **changes):
    return {
        "name": connection.name,
        "status": connection.status,
        "config_base_url": "https://prometheus.example",
        "config_queries": "up = sum(up)",
        **changes,
    }


def test_left_empty_a_secret_is_kept(client):
    connection = ConnectionFactory(prometheus=True)
    before = dict(connection.credentials)
    text = client.get(page(connection)).content.decode()
    assert CANARY not in text
    assert text.count("A value is set") == 2
    response = client.post(page(connection), data(connection, name="New"))
    assert response.status_code == 302, problems(response)
    stored = Connection.objects.get()
    assert (stored.name, stored.credentials) == ("New", before)
    assert not CredentialEvent.objects.exists()
    assert CANARY not in LogEntry.objects.get().change_message


def test_one_secret_is_replaced_and_another_cleared(client):
    connection = ConnectionFactory(prometheus=True)
    response = client.post(
        page(connection),
        data(connection, credential_username="new", **{"credential_password-clear": "on"}),
    )
    assert response.status_code == 302, problems(response)
    assert Connection.objects.get().credentials == {"username": "new"}
    events = CredentialEvent.objects.values_list("action", "names")
    assert {(action, *names) for action, names in events} == {
        ("change", "username"),
        ("clear", "password"),
    }


def test_a_required_secret_can_be_cleared_too(client):
    connection = ConnectionFactory()
    response = client.post(
        page(connection),
        {"name": "x", "status": "active", "credential_api_key-clear": "on"},
    )
    assert response.status_code == 302, problems(response)
    stored = Connection.objects.get()
    assert (stored.credentials, stored.credential_names) == ({}, [])


def test_a_new_destination_needs_all_credentials_again(client):
    connection = ConnectionFactory(prometheus=True)
    response = client.post(
        page(connection), data(connection, config_base_url="https://evil.example")
    )
    assert problems(response) == {"__all__": ["credentials_required_for_new_destination"]}
    assert Connection.objects.get().config["base_url"] == "https://prometheus.example"


@pytest.mark.parametrize("mask", ["••••••••", "********", "set", "(set)", "<Ciphertext deadbeef>"])
def test_a_mask_is_never_stored(client, mask):
    connection = ConnectionFactory()
    response = client.post(
        page(connection), {"name": "x", "status": "active", "credential_api_key": mask}
    )
    assert "credential_api_key" in problems(response)
    assert CANARY in str(Connection.objects.get().credentials)


def test_an_unreadable_row_is_shown_and_mended(client):
    connection = ConnectionFactory()
    poison(connection)
    assert client.get(LIST).status_code == 200
    assert "cannot be decrypted" in client.get(page(connection)).content.decode()
    response = client.post(page(connection, "sync"), follow=True)
    assert "cannot be decrypted" in response.content.decode()
    response = client.post(
        page(connection), {"name": "x", "status": "active", "credential_api_key": "rk_new"}
    )
    assert response.status_code == 302, problems(response)
    assert Connection.objects.get().credentials == {"api_key": "rk_new"}


def test_an_unknown_service_keeps_what_it_holds(client):
    connection = ConnectionFactory(service="fax", credentials={"pin": CANARY}, config={"n": 1})
    text = client.get(page(connection)).content.decode()
    assert "fax (unsupported)" in text
    assert CANARY not in text
    assert client.post(page(connection), {"name": "x", "status": "paused"}).status_code == 302
    stored = Connection.objects.get()
    assert (stored.name, stored.status) == ("x", "paused")
    assert (stored.credentials, stored.config) == ({"pin": CANARY}, {"n": 1})


def test_what_a_sync_wrote_meanwhile_is_not_undone(client):
    connection = ConnectionFactory(prometheus=True)
    form = data(connection, name="New")
    Connection.objects.filter(pk=connection.pk).update(health_score=25, failures=3)
    client.post(page(connection), form)
    stored = Connection.objects.get()
    assert (stored.health_score, stored.failures, stored.name) == (25, 3, "New")


# -- somebody else changes the connection meanwhile -------------------------------------------

MOVE = {
    "config": {"base_url": "https://new.example"},
    "credentials": {"username": "new user", "password": "new password"},
}


def patch(connection, change):
    rest = APIClient()
    rest.force_authenticate(connection.project.owner)
    address = f"/api/v1/projects/{connection.project_id}/connections/{connection.pk}/"
    return rest.patch(address, change)


@pytest.fixture
def between(monkeypatch):
    """Let REST change a connection after a POST to the admin site read it, and before the form is
    made of what was read."""

    def between(change):
        original = ProjectScopedAdmin.get_object
        reads = []

        def get_object(self, request, object_id, from_field=None):
            found = original(self, request, object_id, from_field)
            reads.append(request.method)
            if reads == ["POST", "POST"]:  # the first was for the links of the page
                assert patch(found, change).status_code == 200
            return found

        monkeypatch.setattr(ProjectScopedAdmin, "get_object", get_object)

    return between


def shown(client, connection):
    """What a browser sends back of the page if nothing is changed."""
    fields = client.get(page(connection)).context["adminform"].form
    values = data(connection)
    for field in fields:
        if field.field.show_hidden_initial:
            values[field.html_initial_name] = field.initial
            values[field.html_name] = field.initial
        if field.is_hidden:
            values[field.html_name] = field.initial
    return values


def test_a_new_credential_of_another_is_not_sent_to_the_old_host(client, between):
    connection = ConnectionFactory(prometheus=True)
    between(MOVE)
    response = client.post(page(connection), data(connection, name="New"))
    assert problems(response) == {"__all__": ["credentials_required_for_new_destination"]}
    stored = Connection.objects.get()
    assert (stored.config["base_url"], stored.credentials) == (
        "https://new.example",
        MOVE["credentials"],
    )


def test_credentials_are_merged_with_those_of_now(client, between):
    connection = ConnectionFactory(prometheus=True)
    between({"credentials": {"password": "new password"}})
    response = client.post(page(connection), data(connection, credential_username="new user"))
    assert response.status_code == 302, problems(response)
    assert Connection.objects.get().credentials == MOVE["credentials"]


@pytest.mark.django_db(transaction=True)
def test_another_writer_waits_until_the_form_is_saved(client, monkeypatch):
    if database.vendor == "sqlite" and database.is_in_memory_db():
        pytest.skip("threads share one connection to a database in memory")
    connection = ConnectionFactory(prometheus=True)
    replies = []
    save_model = ConnectionAdmin.save_model

    def rest():
        replies.append(patch(connection, MOVE).status_code)
        databases.close_all()

    writer = threading.Thread(target=rest)

    def slow(self, *args):
        writer.start()
        writer.join(timeout=1)  # it is done by now, or waits
        save_model(self, *args)

    monkeypatch.setattr(ConnectionAdmin, "save_model", slow)
    form = data(connection, name="New", credential_username="other user")
    response = client.post(page(connection), form)
    writer.join()
    assert (response.status_code, replies) == (302, [200])
    stored = Connection.objects.get()
    assert (stored.name, stored.config["base_url"], stored.credentials) == (
        "New",
        "https://new.example",
        MOVE["credentials"],
    )


def test_the_configuration_is_written_only_if_it_changed(client, monkeypatch):
    connection = ConnectionFactory(prometheus=True)
    written = []
    save = Connection.save
    monkeypatch.setattr(
        Connection,
        "save",
        lambda self, **options: [written.append(options["update_fields"]), save(self, **options)],
    )
    client.post(page(connection), data(connection, name="New"))
    client.post(page(connection), data(connection, name="New", config_queries="up = up"))
    assert written == [["name", "updated_at"], ["config", "updated_at"]]


def test_a_form_of_an_older_configuration_is_refused(client):
    connection = ConnectionFactory(prometheus=True)
    form = shown(client, connection)
    assert patch(connection, {"config": {"queries": {"down": "1 - up"}}}).status_code == 200
    response = client.post(page(connection), {**form, "name": "New"})
    assert problems(response) == {"__all__": ["changed_meanwhile"]}
    assert Connection.objects.get().config["queries"] == {"down": "1 - up"}
    again = shown(client, connection) | {"config_queries": "down = 1 - up", "name": "New"}
    response = client.post(page(connection), again)
    assert response.status_code == 302, problems(response)
    assert "Seen" not in LogEntry.objects.get().change_message


def test_a_secret_typed_into_an_older_form_goes_nowhere(client):
    connection = ConnectionFactory(prometheus=True)
    form = shown(client, connection)
    assert patch(connection, MOVE).status_code == 200
    response = client.post(
        page(connection), {**form, "credential_username": "u", "credential_password": "p"}
    )
    assert problems(response) == {"__all__": ["changed_meanwhile"]}
    assert Connection.objects.get().credentials == MOVE["credentials"]


def test_what_is_left_in_an_older_form_undoes_no_edit(client):
    connection = ConnectionFactory(prometheus=True)
    form = shown(client, connection)
    assert patch(connection, {"status": "paused"}).status_code == 200
    assert client.post(page(connection), {**form, "name": "New"}).status_code == 302
    assert patch(connection, {"name": "Newer"}).status_code == 200
    assert client.post(page(connection), {**form, "status": "active"}).status_code == 302
    stored = Connection.objects.get()
    assert (stored.name, stored.status) == ("Newer", "paused")


def test_metrics_are_drawn(client):
    connection = ConnectionFactory()
    now = timezone.now()
    for hours in range(5):
        Metric.objects.create(
            connection=connection,
            metric_id="<charges>",
            at=now - timedelta(hours=hours),
            value=hours,
        )
    text = client.get(page(connection)).content.decode()
    assert text.count("<polyline") == 1
    assert "&lt;charges&gt;: 5 values from 0 to 4" in text
    assert "<charges>" not in text


def test_a_chart_of_one_value_and_of_equal_values(client):
    connection = ConnectionFactory()
    Metric.objects.create(connection=connection, metric_id="one", at=timezone.now(), value=1e300)
    for name, value in (("flat", 2.0), ("negative", -3.5)):
        for hours in range(2):
            at = timezone.now() - timedelta(hours=hours)
            Metric.objects.create(connection=connection, metric_id=name, at=at, value=value)
    text = client.get(page(connection)).content.decode()
    assert text.count("<polyline") == 3
    assert "nan" not in "".join(re.findall(r'points="([^"]*)"', text))


def test_deleting_leaves_the_record(client):
    one, two = ConnectionFactory(), ConnectionFactory()
    client.post(page(one, "delete"), {"post": "yes"})
    client.post(LIST, {"action": "delete_selected", "_selected_action": [two.pk], "post": "yes"})
    assert not Connection.objects.exists()
    refs = CredentialEvent.objects.filter(action="delete").values_list("connection_ref", flat=True)
    assert set(refs) == {one.pk, two.pk}


def test_that_of_a_project_that_is_gone_is_seen_by_superusers_alone(client, project):
    connection = ConnectionFactory(project=project, name="Shop of the gone")
    CredentialEvent.objects.record("test", connection, "user:1", ["api_key"])
    other = staff(ProjectFactory(), Role.ADMIN, "view_credentialevent")
    gone, root = project.pk, User.objects.get(username="root")
    client.post(reverse("admin:projects_project_delete", args=[gone]), {"post": "yes"})
    assert not Connection.objects.exists()
    events = CredentialEvent.objects.filter(project_id=gone).order_by("pk")
    assert [(one.action, one.actor) for one in events] == [
        ("test", "user:1"),
        ("delete", f"user:{root.pk}"),
    ]
    assert events[1].names == ["api_key"]
    listed = reverse("admin:connections_credentialevent_changelist")
    for wanted in ("Shop", str(gone)):
        assert "2 credential events" in client.get(listed, {"q": wanted}).content.decode()
    client.force_login(other)
    assert "0 credential events" in client.get(listed).content.decode()


def test_credentials_of_an_unknown_service_are_told_and_not_named(client):
    connection = ConnectionFactory(service="fax", credentials={"pin": CANARY, CANARY: "x"})
    text = client.get(page(connection)).content.decode()
    assert "set, for a service that is not known here" in text
    assert CANARY not in text
    client.post(page(connection, "delete"), {"post": "yes"})
    event = CredentialEvent.objects.get()
    assert (event.action, event.names) == ("delete", [])


@pytest.mark.parametrize("names", [[], ["api_key"]])
@pytest.mark.parametrize(
    "how",
    [
        lambda one: Connection.objects.get(pk=one.pk).delete(),
        lambda one: Connection.objects.filter(pk=one.pk).delete(),
        lambda one: Project.objects.filter(pk=one.project_id).delete(),
    ],
    ids=["alone", "of a query", "with its project"],
)
def test_a_deletion_is_recorded_whatever_is_deleted(how, names):
    connection = ConnectionFactory()
    Connection.objects.filter(pk=connection.pk).update(credential_names=names)
    other = ConnectionFactory()
    how(connection)
    [event] = CredentialEvent.objects.all()
    assert (event.action, event.actor) == ("delete", "unknown")
    assert (event.connection_ref, event.project_id) == (connection.pk, connection.project_id)
    assert event.names == names
    assert Connection.objects.get() == other


PERMISSIONS = ("view_connection", "change_connection", "add_connection", "delete_connection")


def test_staff_see_the_connections_of_their_projects_alone(client, project):
    mine, other = (
        ConnectionFactory(project=project, name="Our own shop"),
        ConnectionFactory(name="Another shop"),
    )
    client.force_login(staff(project, Role.MEMBER, *PERMISSIONS))
    text = client.get(LIST).content.decode()
    assert "Our own shop" in text
    assert "Another shop" not in text
    assert other.project.name not in text
    assert client.get(page(mine)).status_code == 200
    for address in (page(other), page(other, "delete"), page(other, "history")):
        assert client.get(address).status_code == 404
    for name in ("test", "sync", "reveal"):
        assert client.post(page(other, name)).status_code == 404
    text = client.get(f"{ADD}?service=stripe").content.decode()
    assert project.name in text
    assert other.project.name not in text
    client.post(
        f"{ADD}?service=stripe",
        {
            "project": other.project.pk,
            "name": "x",
            "status": "active",
            "credential_api_key": "rk_x",
        },
    )
    assert Connection.objects.count() == 2


def test_a_viewer_reads_and_changes_nothing(client, project):
    connection = ConnectionFactory(project=project, prometheus=True)
    client.force_login(staff(project, Role.VIEWER, *PERMISSIONS))
    text = client.get(page(connection)).content.decode()
    assert "username: set, password: set, bearer_token: not set" in text
    assert 'name="credential_' not in text
    assert client.post(page(connection), data(connection, name="x")).status_code == 403
    assert client.post(page(connection, "sync")).status_code == 403
    assert client.post(page(connection, "delete"), {"post": "yes"}).status_code == 403
    client.post(
        LIST, {"action": "delete_selected", "_selected_action": [connection.pk], "post": "yes"}
    )
    client.post(LIST, {"action": "sync_selected", "_selected_action": [connection.pk]})
    stored = Connection.objects.get()
    assert (stored.name, stored.last_tried_at) == (connection.name, None)


def test_events_are_seen_by_admins_of_the_project_and_changed_by_nobody(client, project):
    connection = ConnectionFactory(project=project)
    event = CredentialEvent.objects.record("test", connection, "user:1")
    listed = reverse("admin:connections_credentialevent_changelist")
    codes = [f"{what}_credentialevent" for what in ("view", "change", "delete", "add")]
    for role, seen in ((Role.ADMIN, True), (Role.MEMBER, False)):
        client.force_login(staff(project, role, *codes))
        assert (connection.name in client.get(listed).content.decode()) is seen
    client.force_login(User.objects.get(username="root"))
    address = reverse("admin:connections_credentialevent_change", args=[event.pk])
    assert client.get(address).status_code == 200
    assert client.post(address, {}).status_code == 403


def test_reveal_is_refused_and_then_granted(client, project):
    connection = ConnectionFactory(project=project)
    user = staff(project, Role.ADMIN, "view_connection", "change_connection")
    user.set_password("a long password")
    user.save()
    client.force_login(user)
    address = page(connection, "reveal")
    assert "reveal/" not in client.get(page(connection)).content.decode()
    assert client.get(address).status_code == 403

    user.user_permissions.add(Permission.objects.get(codename="reveal_credentials"))
    assert "reveal/" in client.get(page(connection)).content.decode()
    assert CANARY not in client.get(address).content.decode()
    reason = "The customer lost it"
    for body in (
        {"reason": reason, "password": "wrong"},
        {"reason": "", "password": "a long password"},
        {"reason": "short", "password": "a long password"},
        {"reason": f"rk_live_{CANARY}", "password": "a long password"},
    ):
        response = client.post(address, body)
        assert f"<code>rk_live_{CANARY}" not in response.content.decode()
        assert not CredentialEvent.objects.exists()

    response = client.post(address, {"reason": reason, "password": "a long password"})
    assert f"rk_live_{CANARY}" in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    event = CredentialEvent.objects.get()
    assert (event.action, event.reason, event.actor) == ("reveal", reason, f"user:{user.pk}")


def test_reveal_needs_the_role_too(client, project):
    connection = ConnectionFactory(project=project)
    client.force_login(
        staff(project, Role.MEMBER, "view_connection", "change_connection", "reveal_credentials")
    )
    assert client.get(page(connection, "reveal")).status_code == 403


def test_reveal_locks_out_who_guesses(client, settings):
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": "test_reveal_locks_out_who_guesses",
        }
    }
    connection = ConnectionFactory()
    address = page(connection, "reveal")
    body = {"reason": "The customer lost it"}
    for _ in range(5):
        client.post(address, {**body, "password": "wrong"})
    response = client.post(address, {**body, "password": "a long password"})
    assert CANARY not in response.content.decode()
    assert "too often" in response.content.decode()
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 15 * 60
    assert not CredentialEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_record_of_a_reveal_is_committed_before_anything_is_decrypted(client, monkeypatch):
    connection = ConnectionFactory()
    poison(connection)
    response = client.post(
        page(connection, "reveal"),
        {"reason": "The customer lost it", "password": "a long password"},
    )
    assert "cannot be decrypted" in response.content.decode()
    assert CredentialEvent.objects.get().action == "reveal"


@pytest.mark.parametrize("name", ["name", "config_base_url", "config_queries"])
@pytest.mark.parametrize("other", [{}, {"status": "no such status"}], ids=["alone", "two errors"])
def test_a_secret_in_the_wrong_field_is_not_shown_again(client, project, name, other):
    address = f"{reverse('admin:connections_connection_add')}?service=prometheus"
    secret = f"https://user:{CANARY}@host.example"
    typed = {"config_queries": f"up = {secret}"}.get(name, secret)
    form = {"project": project.pk, "name": "x", "status": "active", **other, name: typed}
    response = client.post(address, form)
    assert response.status_code == 200
    assert "This looks like a secret" in response.content.decode()
    assert CANARY not in response.content.decode()
    assert not Connection.objects.exists()


def test_a_deletion_counts_the_metrics_and_does_not_load_them(
    client, project, django_assert_max_num_queries
):
    connections = ConnectionFactory.create_batch(2, project=project)
    now = timezone.now()
    for connection in connections:
        Metric.objects.bulk_create(
            Metric(connection=connection, metric_id=f"metric-{number}", at=now, value=number)
            for number in range(50)
        )
    address = reverse("admin:connections_connection_delete", args=[connections[0].pk])
    with django_assert_max_num_queries(12):
        page = client.get(address).content.decode()
    assert "Metrics: 50" in page
    assert "metric-49" not in page
    listed = reverse("admin:connections_connection_changelist")
    chosen = {"action": "delete_selected", "_selected_action": [one.pk for one in connections]}
    page = client.post(listed, chosen).content.decode()
    assert "Metrics: 100" in page
    client.post(listed, {**chosen, "post": "yes"})
    assert not Connection.objects.exists()
    assert not Metric.objects.exists()
