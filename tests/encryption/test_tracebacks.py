"""The page that Django shows (or mails) when a request fails, with frames and their variables.

The strictest case: Django's own filter, which hides nothing while DEBUG is on. What the frames of
this package hold is what counts, so the value never stands in a variable of the test itself.
"""

import secrets
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import DatabaseError, transaction
from django.db.models import F
from django.db.models.functions import Coalesce, Length
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter

from encryption import DecryptionError, EncryptionError, conf, decrypt, encrypt
from encryption.core import tokens
from tests.encryption.database import store, stored
from tests.fieldapp.factories import NoteFactory
from tests.fieldapp.models import Indexed, Note, Short, Tenant

pytestmark = pytest.mark.django_db


class Hidden:
    """A value that no repr of this object shows."""

    def __init__(self) -> None:
        self.text = secrets.token_hex(20)


class Unserialisable:
    pass


@pytest.fixture(params=[True, False], ids=["DEBUG", "no DEBUG"], autouse=True)
def debug(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.DEBUG = request.param
    settings.DEFAULT_EXCEPTION_REPORTER_FILTER = "django.views.debug.SafeExceptionReporterFilter"


@pytest.fixture
def hidden() -> Hidden:
    return Hidden()


def _pages(fail: Callable[[], object], error: type[BaseException] | tuple[Any, ...]) -> str:
    try:
        with transaction.atomic():
            fail()
    except error:
        kind, value, frames = sys.exc_info()
        reporter = ExceptionReporter(RequestFactory().get("/"), kind, value, frames)
        return "\n".join(
            [
                reporter.get_traceback_html(),
                reporter.get_traceback_text(),
                "".join(
                    traceback.TracebackException(kind, value, frames, capture_locals=True).format()
                ),
            ]
        )
    pytest.fail("nothing was raised")


@pytest.fixture
def note(tenant: Tenant, hidden: Hidden) -> Note:
    NoteFactory(tenant=tenant, secret=hidden.text, data={"token": hidden.text})
    return Note.objects.get()


def test_the_page_would_show_it(hidden: Hidden) -> None:
    def fail() -> None:
        local = hidden.text
        raise ValueError(local)

    assert hidden.text in _pages(fail, ValueError)


def test_a_failed_read(note: Note, hidden: Hidden) -> None:
    assert note.secret == hidden.text
    store(note, "data", stored(note, "secret"))
    read = Note.objects.get()
    assert read.secret
    pages = _pages(lambda: read.data, DecryptionError)
    assert hidden.text not in pages
    assert "another column" in pages


def test_json_that_is_none(note: Note, tenant: Tenant, hidden: Hidden) -> None:
    store(note, "data", encrypt(hidden.text, tenant.pk, context="fieldapp.note.data"))
    read = Note.objects.get()
    assert hidden.text not in _pages(lambda: read.data, DecryptionError)


def test_bytes_that_are_no_text(note: Note, tenant: Tenant, hidden: Hidden) -> None:
    master = conf.get_keyring().primary
    key = master.tenant_key(str(tenant.pk))
    iv = bytes(12)
    data = hidden.text.encode() + b"\xff"
    sealed = key.encrypt(iv, data, tokens.associated_data(master.key_id, "fieldapp.note.secret"))
    store(note, "secret", tokens.build_v2(master.prefix, key.commitment + iv + sealed))
    read = Note.objects.get()
    pages = _pages(lambda: read.secret, DecryptionError)
    assert "not UTF-8" in pages
    assert hidden.text not in pages


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(lambda note, text: {"note": None}, DatabaseError, id="a database error"),
        pytest.param(lambda note, text: {"secret": text + "\ud800"}, ValueError, id="surrogate"),
        pytest.param(lambda note, text: {"data": {"a": text + "\ud800"}}, ValueError, id="in JSON"),
        pytest.param(lambda note, text: {"data": [text, float("nan")]}, ValueError, id="NaN"),
        pytest.param(lambda note, text: {"data": [text, {1, 2}]}, TypeError, id="set"),
        pytest.param(lambda note, text: {"data": {text: Unserialisable()}}, TypeError, id="object"),
        pytest.param(lambda note, text: {"data": {(text,): 1}}, TypeError, id="key"),
        pytest.param(lambda note, text: {"secret": [text]}, TypeError, id="list as text"),
        pytest.param(lambda note, text: {"secret": text.encode()}, TypeError, id="bytes as text"),
        pytest.param(lambda note, text: {"tenant": None}, EncryptionError, id="no tenant"),
        pytest.param(lambda note, text: {"tenant": Tenant()}, EncryptionError, id="unsaved"),
    ],
)
@pytest.mark.parametrize("how", ["save", "update_fields", "bulk_create", "copy"])
def test_a_failed_write(
    note: Note, hidden: Hidden, change: Any, error: type[Exception], how: str
) -> None:
    def prepare() -> Note:
        read = Note.objects.get()
        assert read.secret
        assert read.data
        for name, value in change(read, hidden.text).items():
            setattr(read, name, value)
        return read

    read = prepare()
    if how == "copy" and error is DatabaseError:
        return
    writes = {
        "save": read.save,
        "update_fields": lambda: read.save(update_fields=["secret", "data", "note", "tenant"]),
        "bulk_create": lambda: Note.objects.bulk_create([_renewed(read)]),
        "copy": read.__getstate__,
    }
    pages = _pages(writes[how], (error, EncryptionError))
    assert hidden.text not in pages
    assert hidden.text[:16] not in pages


def _renewed(note: Note) -> Note:
    note.pk = None
    return note


def test_a_refused_move(note: Note, other_tenant: Tenant, hidden: Hidden) -> None:
    assert note.secret
    store(note, "data", "no token")
    read = Note.objects.get()
    assert read.secret
    read.tenant = other_tenant
    assert hidden.text not in _pages(read.save, DecryptionError)


def test_a_refused_bulk_update(note: Note, hidden: Hidden) -> None:
    assert note.secret
    pages = _pages(lambda: Note.objects.bulk_update([note], ["secret"]), FieldError)
    assert hidden.text not in pages


def test_the_functions(hidden: Hidden, tenant: Tenant) -> None:
    class Held:
        token = encrypt(hidden.text, 1)

    for fail in (
        lambda: decrypt(Held.token, 2),
        lambda: decrypt(Held.token, 1, context="other"),
        lambda: decrypt(Held.token[:-4], 1),
        lambda: encrypt(hidden.text.encode(), 1),
        lambda: encrypt([hidden.text], 1),
    ):
        assert hidden.text not in _pages(fail, (DecryptionError, TypeError))


# Of a query that is evaluated, the SQL: a traceback with variables takes the repr of a queryset,
# which evaluates it once more, whoever refuses it.
REFUSED_QUERIES: dict[str, Callable[[], Any]] = {
    "exact": lambda: Note.objects.filter(secret="x"),
    "exact in a relation": lambda: Tenant.objects.filter(note__secret="x"),
    "contains": lambda: Note.objects.filter(secret__contains="x"),
    "order": lambda: str(Note.objects.order_by("secret").query),
    "function": lambda: str(Note.objects.annotate(x=Length("secret")).query),
    "intersection": lambda: str(
        Note.objects.values("secret").intersection(Note.objects.values("secret")).query
    ),
    "blind exact of a text that is none": lambda: Indexed.objects.filter(secret=5),
    "blind exact of an expression": lambda: Indexed.objects.filter(secret=F("name")),
    "blind in of a text": lambda: Indexed.objects.filter(secret__in="x"),
    "blind in of bytes": lambda: Indexed.objects.filter(secret__in=b"x"),
    "blind in with an expression": lambda: Indexed.objects.filter(secret__in=["x", F("name")]),
    "blind lookup of a column of a function": lambda: str(
        Indexed.objects.annotate(x=Coalesce("secret", "secret")).filter(x="x").query
    ),
    "blind lookup without a tenant": lambda: str(Indexed.objects.filter(data__auth__key="x").query),
    "no index of the key": lambda: Indexed.objects.filter(data__auth__other="x"),
    "no index of the whole": lambda: Indexed.objects.filter(data="x"),
    "key that is no text": lambda: Indexed.objects.filter(data__auth__key=object()),
    "key in a select": lambda: str(Indexed.objects.annotate(x=F("data__auth__key")).query),
    "truncated": lambda: str(Short.objects.filter(secret="x", tenant=1).query),
    "an index itself": lambda: Indexed.objects.filter(secret_index="x"),
    "update": lambda: Note.objects.update(secret=F("note")),
}


@pytest.mark.parametrize("query", REFUSED_QUERIES.values(), ids=list(REFUSED_QUERIES))
def test_a_refused_query_is_shown_with_its_variables(query: Callable[[], Any]) -> None:
    """What is refused while it is being made stands half made in a frame, and has a repr."""
    pages = _pages(query, (FieldError, TypeError))
    assert "fieldapp." in pages
    assert "FieldError" in pages or "TypeError" in pages
    assert "AttributeError" not in pages


# -- master keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(lambda key: {"MASTER_KEY_FALLBACKS": [key]}, id="fallback is primary"),
        pytest.param(
            lambda key: {"MASTER_KEY_FALLBACKS": [key[::-1], key[::-1]]}, id="fallback twice"
        ),
        pytest.param(lambda key: {"MASTER_KEY_FALLBACKS": key}, id="fallbacks as text"),
        pytest.param(lambda key: {"MASTER_KEY_FALLBACKS": [key.encode()]}, id="bytes"),
        pytest.param(lambda key: {"MASTER_KEY": key[:20]}, id="short"),
        pytest.param(lambda key: {"MASTER_KEY": key + "\ud800"}, id="surrogate"),
        pytest.param(lambda key: {"MASTER_KEY": key.encode()}, id="key as bytes"),
        pytest.param(lambda key: {"UNKNOWN": 1}, id="unknown entry"),
        pytest.param(lambda key: {"WRITE_FORMAT": "v9"}, id="unknown format"),
        pytest.param(lambda key: {"READ_FORMATS": ["v1"]}, id="unread format"),
        pytest.param(lambda key: {"READ_FORMATS": "v2"}, id="formats as text"),
        pytest.param(lambda key: {"KEY_CACHE_SIZE": 0}, id="no cache"),
        pytest.param(lambda key: {"KEY_PROVIDER": "no.such.Provider"}, id="no provider"),
    ],
)
def test_wrong_settings(hidden: Hidden, entries: Any) -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": hidden.text, **entries(hidden.text)}):
        pages = _pages(conf.get_keyring, ImproperlyConfigured)
        also = _pages(lambda: encrypt("x", 1), ImproperlyConfigured)
    for text in (hidden.text[:20], hidden.text[::-1][:20]):
        assert text not in pages
        assert text not in also


def test_a_secret_file_that_cannot_be_used(
    hidden: Hidden, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text(hidden.text[:20])
    monkeypatch.delenv("MASTER_ENCRYPTION_KEY")
    monkeypatch.setenv("MASTER_ENCRYPTION_KEY_FILE", str(file))
    conf.reset()
    try:
        pages = _pages(conf.get_keyring, ImproperlyConfigured)
    finally:
        monkeypatch.undo()
        conf.reset()
    assert hidden.text[:20] not in pages


def test_a_failure_with_good_keys(hidden: Hidden) -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": hidden.text}):
        assert hidden.text not in _pages(lambda: decrypt("v2:00000000:AAAA", 1), DecryptionError)
        assert hidden.text not in _pages(lambda: decrypt("A" * 40, 1), DecryptionError)
