"""A person creates a key, sees it once, uses it elsewhere, and revokes it."""

import json
import re

import httpx
import pytest
from playwright.sync_api import Error, Page, expect

from apikeys import tokens
from apikeys.models import ApiKey
from tests.apikeys.factories import ProjectFactory, UserFactory
from tests.browser.pages import log_in

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def site(page: Page) -> Page:
    admin = UserFactory(username="admin", is_staff=True, is_superuser=True)
    admin.set_password("correct horse")
    admin.save()
    ProjectFactory(name="Storefront", owner=admin)
    log_in(page, "admin", "correct horse")
    return page


def create(site: Page) -> str:
    """Create a key as a person does and return what the page shows."""
    site.goto("/admin/apikeys/apikey/add/")
    site.get_by_label("Project:").select_option(label="Storefront")
    site.get_by_label("Name:").fill("Nightly report")
    site.get_by_label("Read the project and its members").check()
    site.get_by_role("button", name="Save", exact=True).click()
    shown = site.locator("#new-api-key").inner_text()
    assert tokens.is_valid(shown)
    return shown


def holds(site: Page, secret: str) -> bool:
    """Whether the page, or what the browser keeps for it, has the secret anywhere."""
    inputs = site.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
    stores = site.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    return any(secret in place for place in (site.content(), json.dumps(inputs), stores, site.url))


def use(live_server, key: str) -> httpx.Response:
    url = f"{live_server.url}/api/v1/projects/"
    return httpx.get(url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)


def test_a_key_is_seen_once_used_and_revoked(site: Page, live_server) -> None:
    key = create(site)
    secret = key[tokens.PREFIX_LENGTH :]
    assert holds(site, secret)

    site.go_back()
    assert not holds(site, secret)
    try:
        site.go_forward()
    except Error:  # Chromium has no copy of the page and says so: ERR_CACHE_MISS
        site.wait_for_url("chrome-error://**")  # its error page, a navigation of its own
    assert secret not in site.content()

    answer = use(live_server, key)
    assert answer.status_code == 200
    assert [project["name"] for project in answer.json()["results"]] == ["Storefront"]

    site.goto("/admin/apikeys/apikey/")
    assert not holds(site, secret)
    expect(site.locator("#result_list")).to_contain_text(key[: tokens.PREFIX_LENGTH])
    site.get_by_role("checkbox", name="Select this object for an action").first.check()
    site.get_by_label("Action:").select_option(label="Revoke selected API keys")
    site.get_by_role("button", name=re.compile("^(Go|Run)")).click()
    expect(site.locator(".messagelist")).to_contain_text("Revoked: 1.")

    answer = use(live_server, key)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_reload_neither_shows_the_key_nor_makes_another(site: Page) -> None:
    secret = create(site)[tokens.PREFIX_LENGTH :]
    site.on("dialog", lambda dialog: dialog.accept())
    site.reload()
    assert not holds(site, secret)
    assert site.locator("#new-api-key").count() == 0
    assert ApiKey.objects.count() == 1


def test_a_double_click_selects_the_whole_key(site: Page) -> None:
    key = create(site)
    site.locator("#new-api-key").dblclick()
    assert site.evaluate("getSelection().toString().trim()") == key


def test_a_page_that_was_left_keeps_no_key_in_memory(site: Page) -> None:
    """What the page does when it is put aside, whether or not this browser keeps such pages."""
    secret = create(site)[tokens.PREFIX_LENGTH :]
    site.wait_for_load_state()  # the page's script is there
    site.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    assert not holds(site, secret)
