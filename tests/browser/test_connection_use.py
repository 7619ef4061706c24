"""A person tests and syncs a connection, sees its chart, clears a secret, and has one revealed."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from playwright.sync_api import Page, expect
from pytest_httpserver import HTTPServer

from connections.models import Connection, CredentialEvent, Metric
from projects.models import Membership, Project
from projects.roles import Role

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SECRET = "canary-browser-use-7f3b1c"
PASSWORD = "correct horse"


@pytest.fixture
def connection(httpserver: HTTPServer, settings: Any) -> Connection:
    """A connection to a server that answers as Prometheus does."""
    settings.CONNECTIONS = {"ALLOWED_HOSTS": ["127.0.0.1", "localhost"]}
    now = time.time() // 60 * 60
    values = [[now - 60 * minute, str(10 + minute % 7)] for minute in range(120, 0, -1)]
    result = [{"metric": {}, "values": values}]
    httpserver.expect_request("/api/v1/query").respond_with_json({"data": {"result": []}})
    httpserver.expect_request("/api/v1/query_range").respond_with_json({"data": {"result": result}})
    owner = User.objects.create_user("owner")
    return Connection.objects.create(
        project=Project.objects.create(name="Platform", owner=owner),
        service="prometheus",
        name="Cluster",
        config={"base_url": httpserver.url_for("").rstrip("/"), "queries": {"load": "node_load1"}},
        credentials={"username": "reader", "password": SECRET},
    )


@pytest.fixture
def person(connection: Connection, page: Page) -> User:
    """An admin of the project, logged in, with all permissions but that to reveal."""
    person = User.objects.create_user("ada", password=PASSWORD, is_staff=True)
    person.user_permissions.set(
        Permission.objects.filter(content_type__app_label="connections").exclude(
            codename="reveal_credentials"
        )
    )
    Membership.objects.create(project=connection.project, user=person, role=Role.ADMIN)
    page.goto("/admin/login/")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    return person


def open_page(page: Page) -> None:
    page.goto("/admin/connections/connection/")
    page.get_by_role("link", name="Cluster").click()
    assert SECRET not in page.content()


def picture(page: Page, name: str) -> None:
    """Keep a picture of the page where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_test_sync_and_chart(page: Page, person: User, connection: Connection) -> None:
    open_page(page)
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.locator(".messagelist .success")).to_contain_text("takes the credentials")
    page.get_by_role("button", name="Sync now").click()
    expect(page.locator(".messagelist .success")).to_contain_text("120 values")
    chart = page.get_by_role("img", name="load: 120 values from 10 to 16")
    expect(chart).to_be_visible()
    assert SECRET not in page.content()
    picture(page, "connection")
    page.goto("/admin/connections/connection/")
    expect(page.locator("meter")).to_have_attribute("value", "100")
    picture(page, "connections")
    assert Metric.objects.count() == 120
    actions = CredentialEvent.objects.values_list("action", "actor")
    assert set(actions) == {("test", f"user:{person.pk}"), ("use", f"user:{person.pk}")}


def test_selected_connections_are_synced(page: Page, person: User, connection: Connection) -> None:
    page.goto("/admin/connections/connection/")
    page.locator("input[name=_selected_action]").check()
    page.locator("select[name=action]").select_option("sync_selected")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.locator(".messagelist .success")).to_contain_text("120 values")


def test_a_secret_is_cleared(page: Page, person: User, connection: Connection) -> None:
    open_page(page)
    page.locator("input[name='credential_password-clear']").check()
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist .success")).to_contain_text("was changed successfully")
    assert Connection.objects.get().credentials == {"username": "reader"}
    expect(page.locator(".field-credential_states")).to_contain_text("password: not set")


def test_reveal_is_refused_and_then_granted(
    page: Page, person: User, connection: Connection
) -> None:
    open_page(page)
    expect(page.get_by_role("link", name="Reveal credentials")).to_have_count(0)
    reply = page.goto(f"/admin/connections/connection/{connection.pk}/reveal/")
    assert reply is not None
    assert reply.status == 403
    assert SECRET not in page.content()

    person.user_permissions.add(Permission.objects.get(codename="reveal_credentials"))
    open_page(page)
    page.get_by_role("link", name="Reveal credentials").click()
    picture(page, "reveal")
    page.get_by_label("Reason").fill("The server moved and its owner is away")
    page.get_by_label("Your password").fill("wrong horse")
    page.get_by_role("button", name="Reveal").click()
    expect(page.locator("#content")).to_contain_text("This is not your password.")
    assert SECRET not in page.content()
    assert not CredentialEvent.objects.filter(action="reveal").exists()

    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name="Reveal").click()
    expect(page.locator("#content")).to_contain_text(SECRET)
    event = CredentialEvent.objects.get(action="reveal")
    assert event.reason == "The server moved and its owner is away"
