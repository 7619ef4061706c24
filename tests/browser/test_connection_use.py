"""A person tests and syncs a connection, sees its chart, clears a secret, and has one revealed."""

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from playwright.sync_api import Page, expect
from pytest_httpserver import HTTPServer

from connections.models import Connection, CredentialEvent
from projects.models import Membership, Project
from projects.roles import Role
from tests.browser.pages import expect_without, log_in

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SECRET = "canary-browser-use-7f3b1c"
PASSWORD = "correct horse"


@pytest.fixture
def connection(httpserver: HTTPServer, settings: Any) -> Connection:
    """A connection to a server that answers as Prometheus does."""
    settings.CONNECTIONS = {"ALLOWED_HOSTS": ["127.0.0.1", "localhost"]}
    now = time.time() // 60 * 60
    values = [
        [now - 60 * minute, str(round(13 + 3 * math.sin(minute / 12)))]
        for minute in range(120, 0, -1)
    ]
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
    log_in(page, "ada", PASSWORD)
    return person


def open_page(page: Page) -> None:
    page.goto("/admin/connections/connection/")
    page.get_by_role("link", name="Cluster").click()
    assert SECRET not in page.content()


def picture(page: Page, name: str) -> None:
    """Keep a picture of the page where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_connection_from_the_first_day_to_the_last(
    page: Page, person: User, connection: Connection, httpserver: HTTPServer
) -> None:
    """Create, test, sync, see the chart, edit with an empty secret, clear, delete."""
    page.goto("/admin/connections/connection/add/")
    picture(page, "choose-service")
    page.get_by_role("link", name="Prometheus").click()
    page.locator("select[name=project]").select_option(label="Platform")
    page.get_by_label("Name:", exact=True).fill("Second cluster")
    page.get_by_label("URL:").fill(httpserver.url_for("").rstrip("/"))
    page.get_by_label("Queries:").fill("load = node_load1\nup = sum(up)")
    page.get_by_label("Token:").fill(SECRET)
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist .success")).to_contain_text("was added successfully")
    expect_without(page, SECRET)
    made = Connection.objects.get(name="Second cluster")
    assert made.credentials == {"bearer_token": SECRET}

    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.locator(".messagelist .success")).to_contain_text("takes the credentials")
    page.get_by_role("button", name="Sync now").click()
    expect(page.locator(".messagelist .success")).to_contain_text("240 values")
    for metric in ("load", "up"):
        chart = page.get_by_role("img", name=f"{metric}: 120 values from 10 to 16")
        expect(chart).to_be_visible()
    expect_without(page, SECRET)
    picture(page, "connection")
    sent = {request.headers.get("Authorization") for request, _ in httpserver.log}
    assert sent == {f"Bearer {SECRET}"}

    page.get_by_label("Name:", exact=True).fill("Edge cluster")
    expect(page.get_by_label("Token:")).to_have_value("")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist .success")).to_contain_text("was changed successfully")
    made.refresh_from_db()
    assert (made.name, made.credentials) == ("Edge cluster", {"bearer_token": SECRET})

    page.locator("input[name='credential_bearer_token-clear']").check()
    with page.expect_navigation():  # the page before says the same
        page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist .success")).to_contain_text("was changed successfully")
    assert Connection.objects.get(pk=made.pk).credentials == {}
    expect(page.locator(".field-credential_states")).to_contain_text("bearer_token: not set")

    page.locator("a.deletelink").click()  # a link in one Django, a button in the next
    picture(page, "delete")
    page.get_by_role("button", name="Yes, I").click()
    expect(page.locator(".messagelist .success")).to_contain_text("was deleted successfully")
    kinds = CredentialEvent.objects.filter(connection_ref=made.pk).values_list("action", flat=True)
    assert set(kinds) == {"create", "test", "use", "clear", "delete"}
    page.goto("/admin/connections/credentialevent/")
    expect(page.locator("#result_list")).to_contain_text("Edge cluster")
    expect_without(page, SECRET)
    picture(page, "events")


def test_a_new_host_asks_for_all_credentials_again(
    page: Page, person: User, connection: Connection
) -> None:
    open_page(page)
    page.get_by_label("URL:").fill("https://elsewhere.example")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator("#content")).to_contain_text("would be sent to a new place")
    expect_without(page, SECRET)
    picture(page, "new-host")
    connection.refresh_from_db()
    assert "elsewhere" not in connection.config["base_url"]


def test_the_list_tells_how_each_connection_is(
    page: Page, person: User, connection: Connection
) -> None:
    """What a person sees who has several, one of them in trouble."""
    project = connection.project
    made_up = {"credentials": {"api_key": SECRET}, "service": "stripe", "project": project}
    Connection.objects.create(name="Card payments", **made_up)
    Connection.objects.create(
        name="Old shop",
        health_score=25,
        last_error="credentials_refused",
        status="error",
        **made_up,
    )
    Connection.objects.create(
        name="Fax", service="fax", credentials={"pin": SECRET}, project=project, status="paused"
    )
    page.goto("/admin/connections/connection/")
    expect(page.locator("#result_list")).to_contain_text("credentials_refused")
    expect(page.locator("#result_list")).to_contain_text("fax (unsupported)")
    expect_without(page, SECRET)
    picture(page, "connections")
    page.get_by_role("link", name="Old shop").click()
    expect(page.locator(".field-charts")).to_contain_text("No values yet")
    picture(page, "connection-in-trouble")
    page.goto("/admin/connections/connection/?q=fax")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)


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
    picture(page, "revealed")
    event = CredentialEvent.objects.get(action="reveal")
    assert event.reason == "The server moved and its owner is away"
