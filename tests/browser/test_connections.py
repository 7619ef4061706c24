"""A person creates a connection with real credentials, edits it, and never sees them again."""

import json

import pytest
from django.contrib.auth.models import User
from django.db import connection as database
from playwright.sync_api import Page, expect

from connections.models import Connection
from projects.models import Project
from tests.browser.pages import expect_without, log_in

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SECRET = "sk_live_canary_browser_7f3b1c"
OTHER = "sk_live_canary_browser_second"


@pytest.fixture
def project(page: Page) -> Project:
    """A project of the user who is logged in."""
    admin = User.objects.create_superuser("admin", password="correct horse")
    log_in(page, "admin", "correct horse")
    return Project.objects.create(name="Storefront", owner=admin)


def stored_token() -> str:
    with database.cursor() as cursor:
        cursor.execute("SELECT credentials FROM connections_connection")
        return str(cursor.fetchone()[0])


def add_connection(page: Page) -> None:
    page.goto("/admin/connections/connection/add/")
    page.get_by_role("link", name="Stripe").click()
    page.locator("select[name=project]").select_option(label="Storefront")
    page.locator("input[name=name]").fill("Payments")
    page.locator("input[name=credential_api_key]").fill(SECRET)
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")


def test_a_secret_is_created_kept_replaced_and_never_shown(page: Page, project: Project) -> None:
    add_connection(page)
    expect_without(page, SECRET, OTHER)
    expect(page.locator("#content")).to_contain_text("A value is set")
    assert stored_token().startswith("v2:")
    assert SECRET not in stored_token()
    assert Connection.objects.get().credentials == {"api_key": SECRET}

    page.locator("input[name=name]").fill("Card payments")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    expect_without(page, SECRET, OTHER)
    kept = Connection.objects.get()
    assert (kept.name, kept.credentials) == ("Card payments", {"api_key": SECRET})

    page.locator("input[name=credential_api_key]").fill(OTHER)
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    expect_without(page, SECRET, OTHER)
    assert Connection.objects.get().credentials == {"api_key": OTHER}

    page.goto("/admin/connections/connection/")
    expect_without(page, SECRET, OTHER)


def test_the_same_over_rest(page: Page, project: Project) -> None:
    answer = page.evaluate(
        """async ([address, secret]) => {
            const token = document.cookie.match(/csrftoken=([^;]*)/)[1];
            const reply = await fetch(address, {
                method: "POST",
                headers: {"Content-Type": "application/json", "X-CSRFToken": token},
                body: JSON.stringify({service: "stripe", name: "Payments", config: {},
                                      credentials: {api_key: secret}}),
            });
            return {status: reply.status, text: await reply.text()};
        }""",
        [f"/api/v1/projects/{project.pk}/connections/", SECRET],
    )
    assert answer["status"] == 201, answer
    assert SECRET not in answer["text"]
    assert json.loads(answer["text"])["credential_fields"] == {"api_key": {"set": True}}
    assert stored_token().startswith("v2:")
    assert Connection.objects.get().credentials == {"api_key": SECRET}
    page.goto(f"/api/v1/projects/{project.pk}/connections/")
    expect_without(page, SECRET, OTHER)
