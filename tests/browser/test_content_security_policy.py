"""Every kind of page under the content security policy; the `page` fixture fails on a violation."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from connections.models import Metric
from encryption.models import RotationRun
from tests.browser.pages import log_in
from tests.connections.factories import ConnectionFactory

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def admin(page: Page) -> User:
    user = User.objects.create_superuser("admin", password="correct horse")
    log_in(page, "admin", "correct horse")
    return user


def test_every_list_and_form_of_the_admin(page: Page, admin: User) -> None:
    ConnectionFactory()
    RotationRun.objects.create(started_by="x", to_key_id="01234567", write_format="v2")
    page.goto("/admin/")
    links = page.eval_on_selector_all("#content-main a", "all => all.map(one => one.href)")
    assert len(links) > 8
    for link in links:
        answer = page.goto(link)
        assert answer is not None
        assert answer.status == 200, link
        assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_charts_and_bars_are_drawn(page: Page, admin: User) -> None:
    connection = ConnectionFactory()
    for day in range(3):
        Metric.objects.create(
            connection=connection,
            metric_id="revenue",
            value=day,
            at=timezone.now() - timedelta(days=day),
        )
    page.goto(f"/admin/connections/connection/{connection.pk}/change/")
    expect(page.locator("figure.metric-chart polyline")).to_have_count(1)
    box = page.locator("figure.metric-chart svg").bounding_box()
    assert box is not None
    assert box["width"] > 300
    page.goto("/admin/encryption/rotationrun/status/")
    expect(page.locator("svg rect").first).to_be_visible()


def test_the_documentation_of_the_api_can_be_used(page: Page) -> None:
    page.goto("/api/v1/docs/")
    expect(page.locator(".info .title")).to_contain_text("Dashtray")
    page.locator(".opblock-summary").first.click()
    expect(page.locator(".opblock-body").first).to_be_visible()
    margin = page.evaluate("getComputedStyle(document.body).margin")
    assert margin == "0px"


def test_an_inline_script_does_not_run(browser: Browser, live_server: Any) -> None:
    """The policy is in force, and the `page` fixture would hear of it."""
    page = browser.new_page(base_url=live_server.url)
    heard: list[str] = []
    page.on("console", lambda said: heard.append(said.text))
    page.goto("/admin/login/")
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s) }"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in heard)
    page.close()
