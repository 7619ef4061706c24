"""Log lines: one JSON object each, or text for people; neither holds what looks like a secret."""

import copy
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from django.core.signals import request_finished
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from encryption.core.providers import EnvironmentKeyProvider
from encryption.redaction import RedactingFormatter, names_a_secret

Respond = Callable[[HttpRequest], HttpResponse]

#: What every record has; anything else came with it as an extra field.
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Extra fields of Django and Celery that hold values of users. `sql` stands in the message.
_LEFT_OUT: Final = frozenset({"params", "sql", "args", "kwargs", "data"})
_SQL: Final = "django.db.backends"

#: The request that this thread or task works for; empty outside of one.
request_id: ContextVar[str] = ContextVar("request_id", default="")


def known_secrets(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The secrets of this process: variables that are named like one, and the master keys."""
    for name, value in environ.items():
        if names_a_secret(name) or name.endswith("_KEY"):
            yield from filter(None, map(str.strip, re.split(r"[,\n]", value)))
    try:
        keys = EnvironmentKeyProvider({}, environ).keys()
    except ValueError:  # there is none, as the system check will say
        return
    yield from (keys.primary, *keys.fallbacks)


class LineFormatter(RedactingFormatter):
    """A line of text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, known=known_secrets(), **kwargs)

    def format(self, record: logging.LogRecord) -> str:
        line = copy.copy(record)
        line.msg, line.args = message_of(record), None
        return super().format(line)


class JsonFormatter(LineFormatter):
    """One JSON object: time, level, logger, message, request, extra fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self.redactor.text(message_of(record)),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line |= self._extra(record)
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__qualname__
            line["traceback"] = self.redactor.text(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = self.redactor.text(record.stack_info)
        return json.dumps(line)

    def _extra(self, record: logging.LogRecord) -> dict[str, Any]:
        found = {}
        for name, value in vars(record).items():
            if name in _USUAL or name in _LEFT_OUT:
                continue
            if isinstance(value, HttpRequest):
                value = f"{value.method} {value.path}"  # noqa: PLW2901
            found[name] = self.redactor.value(value, name)
        return found


def message_of(record: logging.LogRecord) -> str:
    """The message; of a statement only what comes before the first value in quotes."""
    if record.name.startswith(_SQL) and hasattr(record, "sql"):
        sql, quote, _ = str(record.sql).partition("'")
        return f"({getattr(record, 'duration', 0.0):.3f}) {sql}{quote and '(values left out)'}"
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # logging itself would print the arguments as they are
        return f"{record.msg} (its arguments do not fit)"


class RequestIdMiddleware:
    """Names each request, in its log lines and in the `X-Request-ID` of the reply.

    A name that the client sends is not taken over: it could be somebody else's, or not a name.
    """

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        name = secrets.token_hex(8)
        request_id.set(name)
        response = self.get_response(request)
        response.headers["X-Request-ID"] = name
        return response


@receiver(request_finished, dispatch_uid="dashtray.logs")
def _forget_request_id(**kwargs: Any) -> None:
    """Django logs refused requests after all middleware is done, so it is forgotten here."""
    request_id.set("")


class WithoutProbes(logging.Filter):
    """Leaves the probes that succeeded out of gunicorn's access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args
        if not isinstance(args, Mapping):
            return True
        return not (str(args.get("U")).startswith("/health/") and str(args.get("s")) == "200")
