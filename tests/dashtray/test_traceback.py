from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

CANARY = "sk_live_canary_4eC39HqLyjWDarjtT1zdp7dc"


class Connection:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"<Connection {self.secret}>"


@csrf_exempt
def failing_view(request: HttpRequest) -> HttpResponse:
    posted = request.POST.get("api_key") or request.body.decode()
    nested = {"connection": Connection(posted)}
    raise RuntimeError("upstream went away " + type(nested).__name__)


urlpatterns = [path("fails/", failing_view)]


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("accept", ["text/html", "text/plain"])
@pytest.mark.parametrize(
    "body",
    [
        {"data": {"api_key": CANARY}},
        {"data": {"api_key": CANARY}, "content_type": "application/json"},
    ],
    ids=["form", "json"],
)
def test_a_traceback_page_holds_nothing_that_was_sent(
    debug: bool, accept: str, body: dict[str, Any]
) -> None:
    client = Client(
        raise_request_exception=False,
        headers={"accept": accept, "authorization": f"Bearer {CANARY}", "cookie": f"a={CANARY}"},
    )
    # The development server hands the process environment on like this.
    environ: dict[str, Any] = {
        "DATABASE_URL": f"postgres://dashtray:{CANARY}@127.0.0.1/",
        "CELERY_BROKER_URL": f"amqp://dashtray:{CANARY}@127.0.0.1/",
        "MASTER_ENCRYPTION_KEY": CANARY,
        "OLD_MASTER_KEY": CANARY,
        "DEMO_PASSWORD": CANARY,
    }
    with override_settings(
        DEBUG=debug, ROOT_URLCONF=__name__, CELERY_BROKER_URL=f"redis://:{CANARY}@127.0.0.1/"
    ):
        response = client.post("/fails/", **body, **environ)
    page = response.content.decode()
    assert response.status_code == 500
    assert ("upstream went away" in page) is debug
    assert CANARY not in page
