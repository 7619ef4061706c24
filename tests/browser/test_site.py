import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_a_superuser_logs_in_and_out(page: Page) -> None:
    User.objects.create_superuser("admin", password="correct horse")
    page.goto("/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("wrong horse")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".errornote")).to_contain_text("Please enter the correct username")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_title("Overview | Dashtray")
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#content")).to_contain_text("Logged out")


def test_the_api_documentation_shows_the_endpoints(page: Page) -> None:
    page.goto("/api/v1/docs/")
    expect(page.locator(".info .title")).to_contain_text("Dashtray")
