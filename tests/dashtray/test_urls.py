import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client


def test_the_root_leads_to_the_admin(client: Client) -> None:
    response = client.get("/", follow=True)
    assert response.redirect_chain == [("/admin/", 302), ("/admin/login/?next=/admin/", 302)]
    assert "Dashtray" in response.content.decode()


@pytest.mark.django_db
def test_the_schema_is_open_api_3_1(client: Client) -> None:
    response = client.get("/api/v1/schema/", headers={"accept": "application/json"})
    assert response.status_code == 200
    assert response.json()["openapi"].startswith("3.1")
    assert response.json()["info"]["title"] == "Dashtray"


def test_the_documentation_page_loads_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/api/v1/docs/").content.decode()
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/")
        if address.startswith("/static/"):
            assert finders.find(address.removeprefix("/static/")), address
    assert not re.search(r"<script(?![^>]*src=)", page), "no inline script"
