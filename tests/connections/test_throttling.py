import pytest
from rest_framework.test import APIClient

from tests.connections.factories import ConnectionFactory

pytestmark = pytest.mark.django_db


def test_a_connection_is_used_by_request_only_so_often(settings):
    settings.CONNECTIONS = {"TESTS_PER_MINUTE": 2}
    connection, other = ConnectionFactory(service="fax"), ConnectionFactory(service="fax")
    client = APIClient()

    def post(one, action):
        client.force_authenticate(one.project.owner)
        return client.post(f"/api/v1/projects/{one.project_id}/connections/{one.pk}/{action}/")

    assert [post(connection, name).status_code for name in ("test", "sync")] == [409, 409]
    limited = post(connection, "test")
    assert limited.status_code == 429
    assert int(limited["Retry-After"]) > 0
    assert limited.json()["errors"][0]["code"] == "throttled"
    assert post(other, "test").status_code == 409
    assert client.get(f"/api/v1/projects/{other.project_id}/connections/").status_code == 200
