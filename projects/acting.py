"""On whose behalf code runs: for records that are written far from the request that led to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, runtime_checkable
from uuid import UUID

from django.http import HttpRequest, HttpResponse

#: Of what neither a request nor a command did, such as code in a shell.
UNKNOWN: Final = "unknown"

_acting: ContextVar[Callable[[], str] | None] = ContextVar("acting", default=None)


@runtime_checkable
class ApiCredential(Protocol):
    """``request.auth`` of a request that a project's API key was sent with."""

    @property
    def project_id(self) -> UUID: ...

    def has_scope(self, name: str) -> bool: ...


def actor_of(request: Any) -> str:
    """Name the sender of a request for a log or an audit row, telling no secret."""
    credential = getattr(request, "auth", None)  # which a request of the admin site has not
    if isinstance(credential, ApiCredential):
        return f"api-key:{getattr(credential, 'pk', '')}"
    return f"user:{request.user.pk}"


def current_actor() -> str:
    """Name who acts: "user:ID", "api-key:ID", the name that :func:`acting` was given, or
    :data:`UNKNOWN`."""
    name = _acting.get()
    return UNKNOWN if name is None else name()


@contextmanager
def acting(name: str) -> Iterator[None]:
    """Name who acts within a block.

    Args:
        name: such as "command".
    """
    token = _acting.set(lambda: name)
    try:
        yield
    finally:
        _acting.reset(token)


class ActorMiddleware:
    """The sender of a request acts for as long as it is worked on."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Asked when it is needed: an API key is looked at by the view.
        token = _acting.set(lambda: _sender(request))
        try:
            return self.get_response(request)
        finally:
            _acting.reset(token)


def _sender(request: Any) -> str:
    is_known = isinstance(getattr(request, "auth", None), ApiCredential) or request.user.pk
    return actor_of(request) if is_known else UNKNOWN
