"""Whether this process lives, and whether it may be sent requests: for probes, and for staff.

A probe comes every few seconds, over plain HTTP, to the address of a machine and not to the site's
name. So it is answered before anything redirects it or refuses its Host header, and it is told
nothing but yes or no. Staff, who come with a session, are told the reasons.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as AnyDatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from dashtray.metrics import PATH, metrics
from encryption.conf import get_keyring
from encryption.health import count_rows, failed_databases
from encryption.status import missing_key_text

logger = logging.getLogger(__name__)

LIVE: Final = "/health/live/"
READY: Final = "/health/ready/"

Respond = Callable[[HttpRequest], HttpResponse]


@dataclass
class Readiness:
    """What stands in the way, in short texts without anything secret, and what staff may know."""

    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "unavailable" if self.problems else "ready"


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """Answer: the process is there. Nothing else is asked, so nothing else gets it restarted."""
    return _quiet(JsonResponse({"status": "live"}))


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 if database, cache and keyring answer and no row's key is missing, else 503."""
    staff = _is_staff(request)
    found = readiness(0.0 if staff else settings.HEALTH_COUNT_SECONDS)
    _log_change(found)
    body: dict[str, Any] = {"status": found.status}
    if staff:
        body |= {"problems": found.problems, **found.details}
    return _quiet(JsonResponse(body, status=503 if found.problems else 200))


def readiness(max_age: float) -> Readiness:
    """Look at everything that a request needs.

    Args:
        max_age: how many seconds old the count of rows may be.
    """
    found = Readiness()
    for alias, error in failed_databases().items():
        found.problems.append(f"database {alias}: {error}")
    _check_cache(found)
    try:
        primary, *fallbacks = get_keyring().key_ids()
    except (ImproperlyConfigured, ValueError) as error:
        found.problems.append(f"keyring: {error}")
        return found
    except Exception as error:  # noqa: BLE001  # what a provider of keys raises is its own
        found.problems.append(f"keyring: {type(error).__name__}")
        return found
    found.details = {"primary_key_id": primary, "fallback_key_ids": fallbacks}
    if not found.problems:
        _check_rows(found, max_age)
    return found


def _check_cache(found: Readiness) -> None:
    try:
        cache.get("dashtray.health")
    except Exception as error:  # noqa: BLE001  # each kind of cache has errors of its own
        found.problems.append(f"cache: {type(error).__name__}")


def _check_rows(found: Readiness, max_age: float) -> None:
    try:
        rows = count_rows(max_age)
    except AnyDatabaseError as error:
        found.problems.append(f"rows cannot be counted: {type(error).__name__}")
        return
    found.details |= {"missing_key_ids": dict(rows.missing), "stale_rows": rows.stale}
    found.problems.extend(missing_key_text(key_id, count) for key_id, count in rows.missing.items())


def _is_staff(request: HttpRequest) -> bool:
    try:
        user = getattr(request, "user", None)  # none where a probe is answered early
        return user is not None and user.is_active and user.is_staff
    except AnyDatabaseError:  # without a database nobody is known
        return False


def _quiet(response: HttpResponse) -> HttpResponse:
    """Keep Django from writing a line about each 503; `_log_change` writes one in all."""
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


_last_problems: list[str] = []


def _log_change(found: Readiness) -> None:
    global _last_problems
    if found.problems and found.problems != _last_problems:
        logger.error("Not ready: %s", "; ".join(found.problems))
    elif _last_problems and not found.problems:
        logger.info("Ready again")
    _last_problems = found.problems


class ProbeMiddleware:
    """Answers probes before anything redirects or refuses them, and Prometheus with its token.

    Who has a session takes the usual way.
    """

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response
        self.views: dict[str, Respond] = {LIVE: live, READY: ready}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        view = self.views.get(request.path_info)
        if request.path_info == PATH and "Authorization" in request.headers:
            view = metrics
        if view is None or settings.SESSION_COOKIE_NAME in request.COOKIES:
            return self.get_response(request)
        return view(request)
