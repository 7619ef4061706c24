"""What traceback pages and error mails may show.

A frame anywhere below a view may hold a decrypted value, in a variable of any name, and Django
shows the variables of all frames. Guessing by names loses; here every variable is shown by its
type alone, and what came with the request by its name alone, whatever DEBUG is::

    DEFAULT_EXCEPTION_REPORTER_FILTER = "encryption.reporting.SecretSafeExceptionReporterFilter"
    DEFAULT_EXCEPTION_REPORTER = "encryption.reporting.SecretSafeExceptionReporter"

The message of an exception is shown as it is: never put a secret into one.
"""

import re
from types import FrameType
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.checks import CheckMessage, Warning as CheckWarning
from django.db import models
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

#: Entries of ``request.META`` that are shown. The development server puts the environment of the
#: process among them, and a client may put a secret into any header.
SHOWN_META: Final = frozenset(
    {
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "GATEWAY_INTERFACE",
        "HTTP_ACCEPT",
        "HTTP_HOST",
        "PATH_INFO",
        "REMOTE_ADDR",
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
        "wsgi.multiprocess",
        "wsgi.multithread",
        "wsgi.run_once",
        "wsgi.url_scheme",
        "wsgi.version",
    }
)

# A password in the user part of an address, such as that of a database or broker.
_ADDRESS: Final = re.compile(r"://[^/?#\s]*@")


class Shown:
    """Something that a traceback page shows as the given text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def described(value: object) -> Shown:
    """Describe a variable without its value: its type, and what tells nothing of a secret.

    A length is told of containers, not of texts. No method of the value is called but those of
    built-in types: they might decrypt, query or fail.
    """
    kind = type(value)
    if value is None or kind is bool:
        return Shown(repr(value))
    name = kind.__qualname__
    if kind in (list, tuple, dict, set, frozenset):
        return Shown(f"<{name} of {len(value)}>")  # type: ignore[arg-type]
    if issubclass(kind, models.Model):
        key = vars(value).get(getattr(kind._meta.pk, "attname", ""))
        if type(key) in (int, UUID):
            return Shown(f"<{name} pk={key}>")
    return Shown(f"<{name}>")


class SecretSafeExceptionReporterFilter(SafeExceptionReporterFilter):
    """Shows types of variables, and names of what was sent; addresses without their passwords."""

    def is_active(self, request: HttpRequest | None) -> bool:
        """Always: a page that is shown under DEBUG is copied into tickets and chats."""
        return True

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> Any:
        return [(name, described(value)) for name, value in tb_frame.f_locals.items()]

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        return {} if request is None else self._hidden(request.POST)

    def get_safe_cookies(self, request: HttpRequest | None) -> dict[str, Any]:
        return self._hidden(getattr(request, "COOKIES", {}))

    def get_safe_request_meta(self, request: HttpRequest | None) -> dict[str, Any]:
        meta = getattr(request, "META", {})
        return {
            name: value if name in SHOWN_META else self.cleansed_substitute
            for name, value in meta.items()
        }

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        cleansed = super().cleanse_setting(key, value)
        if isinstance(cleansed, str) and _ADDRESS.search(cleansed):
            return self.cleansed_substitute
        return cleansed

    def _hidden(self, sent: Any) -> dict[str, Any]:
        return dict.fromkeys(sent, self.cleansed_substitute)


class SecretSafeExceptionReporter(ExceptionReporter):
    """Hides what the filter is never asked about: the query string, and the text around a
    character that could not be encoded."""

    def get_traceback_data(self) -> dict[str, Any]:
        data = super().get_traceback_data()
        data["unicode_hint"] = ""
        hidden = self.filter.cleansed_substitute
        if "request_GET_items" in data:
            data["request_GET_items"] = [(name, hidden) for name, _ in data["request_GET_items"]]
            data["request_insecure_uri"] = data["request_insecure_uri"].partition("?")[0]
        return data


def check_reporting(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check, for deployment, that error mails show no variables: W050."""
    configured = import_string(settings.DEFAULT_EXCEPTION_REPORTER_FILTER)
    if issubclass(configured, SecretSafeExceptionReporterFilter):
        return []
    return [
        CheckWarning(
            "Error mails and traceback pages show the variables of every frame, and with them "
            "secrets that were decrypted there.",
            "Set DEFAULT_EXCEPTION_REPORTER_FILTER to "
            '"encryption.reporting.SecretSafeExceptionReporterFilter".',
            id="encryption.W050",
        )
    ]
