import pytest
from rest_framework.test import APIClient

from connections.models import CredentialEvent
from projects.acting import acting, current_actor
from tests.apikeys.factories import ApiKeyFactory
from tests.connections.factories import ConnectionFactory


def test_a_block_names_who_acts_until_it_ends() -> None:
    assert current_actor() == "unknown"
    with acting("command"):
        with acting("other"):
            assert current_actor() == "other"
        assert current_actor() == "command"
    assert current_actor() == "unknown"


@pytest.mark.django_db
def test_the_sender_of_a_request_acts() -> None:
    """Also one whom only the view looks at, which comes after all middleware."""
    connection = ConnectionFactory()
    key = ApiKeyFactory(project=connection.project, scopes=["connections:write"])
    address = f"/api/v1/projects/{connection.project_id}/connections/{connection.pk}/"
    header = f"Bearer {key.issued_token.plaintext}"
    assert APIClient(headers={"Authorization": header}).delete(address).status_code == 204
    assert CredentialEvent.objects.get(action="delete").actor == f"api-key:{key.pk}"
    assert current_actor() == "unknown"


@pytest.mark.django_db
def test_nobody_acts_in_a_request_that_nobody_is_known_to_have_sent(client, monkeypatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "django.contrib.auth.views.LoginView.get_context_data",
        lambda *args, **kwargs: seen.append(current_actor()) or {},
    )
    client.get("/admin/login/")
    assert seen == ["unknown"]
