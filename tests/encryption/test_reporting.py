import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject
from django.utils.log import AdminEmailHandler
from django.views import debug
from django.views.decorators.csrf import csrf_exempt

from encryption.reporting import check_reporting, described
from tests.fieldapp.factories import NoteFactory, TenantFactory, VaultFactory
from tests.fieldapp.models import Note, OwnKey, TextSalt, Vault

CANARY = "sk_live_canary_4eC39HqLyjWDarjtT1zdp7dc"
SETTINGS = {
    "DEFAULT_EXCEPTION_REPORTER_FILTER": ("encryption.reporting.SecretSafeExceptionReporterFilter"),
    "DEFAULT_EXCEPTION_REPORTER": "encryption.reporting.SecretSafeExceptionReporter",
}


class UpstreamError(Exception):
    pass


def fail() -> None:
    raise UpstreamError("upstream went away")


class Client3:
    """Somebody's client for a third-party service; its repr tells everything."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __repr__(self) -> str:
        return f"<Client {self.key}>"


def call(secret: str, *args: Any, **kwargs: Any) -> None:
    nested = {"headers": [("Authorization", f"Bearer {secret}")], "client": Client3(secret)}
    encoded = secret.encode()
    if nested and encoded:
        fail()


def read(request: HttpRequest) -> None:
    secret = Note.objects.get().secret
    call(secret, secret, keyword=secret)


def create(request: HttpRequest) -> None:
    Note.objects.create(tenant=TenantFactory(), secret=CANARY, no_such_field=1)


def create_without_tenant(request: HttpRequest) -> None:
    Note.objects.create(secret=CANARY, data={"key": CANARY})


def save_twice(request: HttpRequest) -> None:
    Note(pk=Note.objects.get().pk, tenant=TenantFactory(), secret=CANARY).save(force_insert=True)


def bulk_update(request: HttpRequest) -> None:
    vaults = VaultFactory.create_batch(2, secret="s")
    for vault in vaults:
        vault.secret = CANARY
    vaults[1].tenant = None
    Vault.objects.bulk_update(vaults, ["secret", "tenant"])


def update(request: HttpRequest) -> None:
    Note.objects.update(secret=CANARY)


def look_up(request: HttpRequest) -> None:
    Note.objects.filter(secret=CANARY).count()


def wrong_type(request: HttpRequest) -> None:
    Note.objects.create(tenant=TenantFactory(), secret=[CANARY])


def half_a_character(request: HttpRequest) -> None:
    Note.objects.create(tenant=TenantFactory(), secret=f"{CANARY}\ud800")


def not_json(request: HttpRequest) -> None:
    Note.objects.create(tenant=TenantFactory(), data={"key": {CANARY}})


def unencodable(request: HttpRequest) -> None:
    f"{CANARY[:8]}é{CANARY[8:]}".encode("ascii")


def posted(request: HttpRequest) -> None:
    body, form, headers = request.body, request.POST, request.headers
    if body and form is not None and headers:
        fail()


def chained(request: HttpRequest) -> None:
    secret = CANARY
    try:
        call(secret)
    except UpstreamError as error:
        raise KeyError("unknown service") from error


FAILURES = [
    read,
    create,
    create_without_tenant,
    save_twice,
    bulk_update,
    update,
    look_up,
    wrong_type,
    half_a_character,
    not_json,
    unencodable,
    posted,
    chained,
]


def failing_view(request: HttpRequest, name: str) -> HttpResponse:
    globals()[name](request)
    raise AssertionError(f"{name} did not fail")


urlpatterns = [path("<name>/", csrf_exempt(failing_view))]


@pytest.fixture(autouse=True)
def _settings(db: None) -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=__name__,
        BROKER=f"amqp://user:{CANARY}@127.0.0.1/",
        SOME_ADDRESSES={"backend": [f"redis://:{CANARY}@127.0.0.1/"]},
        ENCRYPTION={**getattr(settings, "ENCRYPTION", {}), "MASTER_KEY": CANARY},
        **SETTINGS,
    ):
        debug.get_default_exception_reporter_filter.cache_clear()
        NoteFactory(secret=CANARY)
        yield
    debug.get_default_exception_reporter_filter.cache_clear()


def request_failure(name: str, accept: str = "text/html") -> str:
    """Send a request with the canary in every part of it, and return the answer."""
    client = Client(raise_request_exception=False)
    headers = {
        "accept": accept,
        "authorization": f"Bearer {CANARY}",
        "cookie": f"a={CANARY}",
        "referer": f"https://example.com/?key={CANARY}",
        "user-agent": CANARY,
        "x-anything": CANARY,
    }
    environ: dict[str, Any] = {"DATABASE_URL": f"postgres://u:{CANARY}@127.0.0.1/", "OTHER": CANARY}
    address = f"/{name}/?key={CANARY}"
    if name == "posted":
        response = client.post(address, {"anything": CANARY}, headers=headers, **environ)
    else:
        body = json.dumps({"anything": CANARY})
        response = client.post(
            address, body, content_type="application/json", headers=headers, **environ
        )
    assert response.status_code == 500
    return response.content.decode()


class MailCollector(AdminEmailHandler):
    """Keeps what would be mailed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: list[tuple[str, str, str]] = []

    def send_mail(self, subject: str, message: str, *args: Any, **kwargs: Any) -> None:
        self.sent.append((subject, message, kwargs["html_message"]))


def fragments(text: str) -> list[str]:
    """Pieces of the canary that stand in a text."""
    return [CANARY[i : i + 8] for i in range(len(CANARY) - 7) if CANARY[i : i + 8] in text]


@pytest.mark.parametrize("accept", ["text/html", "text/plain"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_no_traceback_page_holds_a_secret(failure: Any, accept: str) -> None:
    with override_settings(DEBUG=True):
        page = request_failure(failure.__name__, accept)
    assert "failing_view" in page
    assert "AssertionError at" not in page
    assert fragments(page) == []


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_no_error_mail_holds_a_secret(failure: Any) -> None:
    logger = logging.getLogger("django.request")
    handler = MailCollector(include_html=True)
    logger.addHandler(handler)
    try:
        with override_settings(DEBUG=False):
            page = request_failure(failure.__name__)
    finally:
        logger.removeHandler(handler)
    assert fragments(page) == []
    ((subject, body, html),) = handler.sent
    for text in (subject, body, html):
        assert fragments(text) == []
    assert "failing_view" in body
    assert "&lt;WSGIRequest&gt;" in html


def test_the_page_still_helps() -> None:
    with override_settings(DEBUG=True):
        page = request_failure("posted")
    shown = re.findall(r'<td>(\w+)</td>\s*<td class="code"><pre>(.*?)</pre>', page)
    assert ("body", "&lt;bytes&gt;") in shown
    assert ("form", "&lt;QueryDict&gt;") in shown
    assert ("anything", "&#x27;********************&#x27;") in shown
    assert ("REQUEST_METHOD", "&#x27;POST&#x27;") in shown
    assert ("HTTP_AUTHORIZATION", "&#x27;********************&#x27;") in shown
    assert "upstream went away" in page
    assert "/posted/" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (7, "<int>"),
        (CANARY, "<str>"),
        (CANARY.encode(), "<bytes>"),
        ([CANARY], "<list of 1>"),
        ({CANARY: CANARY}, "<dict of 1>"),
        (Note(pk=7, secret=CANARY), "<Note pk=7>"),
        (OwnKey(pk=UUID(int=7)), f"<OwnKey pk={UUID(int=7)}>"),
        (Note(), "<Note>"),
        (TextSalt.objects.none, "<method>"),
        (IntegrityError(CANARY), "<IntegrityError>"),
        (Client3(CANARY), "<Client3>"),
        (Note, "<ModelBase>"),
    ],
)
def test_a_variable_is_described_without_its_value(value: object, text: str) -> None:
    assert repr(described(value)) == text


def test_describing_a_variable_runs_none_of_its_code() -> None:
    def never() -> None:
        raise AssertionError("evaluated")

    assert repr(described(SimpleLazyObject(never))) == "<SimpleLazyObject>"
    # A query set would ask the database for its length.
    assert repr(described(Note.objects.all())).endswith("QuerySet>")


def test_a_request_may_be_missing() -> None:
    reporter = debug.get_exception_reporter_class(None)(
        None, UpstreamError, UpstreamError("x"), None
    )
    assert "UpstreamError" in reporter.get_traceback_text()
    assert fragments(reporter.get_traceback_html()) == []


@pytest.mark.django_db  # JSONField asks the database whether it knows JSON
def test_a_deployment_is_told_to_set_the_filter() -> None:
    assert check_reporting(None) == []
    with override_settings(
        DEFAULT_EXCEPTION_REPORTER_FILTER="django.views.debug.SafeExceptionReporterFilter"
    ):
        assert [message.id for message in check_reporting(None)] == ["encryption.W050"]
        messages = run_checks(include_deployment_checks=True)
        assert "encryption.W050" in [message.id for message in messages]
        assert "encryption.W050" not in [message.id for message in run_checks()]
