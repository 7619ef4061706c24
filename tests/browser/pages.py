"""What people do on pages of the site, and what may stand in none of them."""

import json

from playwright.sync_api import Page, expect


def log_in(page: Page, username: str, password: str) -> None:
    page.goto("/admin/login/")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    expect(
        page.get_by_role("link", name="Log out").or_(page.get_by_text("Log out"))
    ).to_be_visible()


def expect_without(page: Page, *secrets: str) -> None:
    """Expect that neither the source of the page nor the value of any input holds a secret."""
    inputs = page.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
    for place in (page.content(), json.dumps(inputs)):
        for secret in secrets:
            assert secret not in place
