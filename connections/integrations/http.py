"""Requests to one service: retried, kept on its host, and with errors that repeat nothing."""

import logging
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

import httpx
import stamina

from connections.conf import get_settings
from connections.integrations.base import IntegrationError
from connections.outgoing import OutgoingError, RefusedDestinationError, client, origin_of

#: Longer than this, a service that says when to come back is left alone until the next sync.
LONGEST_WAIT = 20.0
MOST_REDIRECTS = 3

logger = logging.getLogger(__name__)

Explain = Callable[[httpx.Response], IntegrationError | None]
Params = Mapping[str, str | int | float]


class PassingError(IntegrationError):
    """It may well work a moment later.

    Args:
        after: seconds after which the service wants to be asked again, if it said so.
    """

    def __init__(self, message: str, code: str, after: float | None = None) -> None:
        super().__init__(message, code)
        self.after = after


def retry_after(reply: httpx.Response) -> float | None:
    """The seconds of a ``Retry-After`` header (RFC 9110, 10.2.3; a date is left aside)."""
    value = reply.headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else None


def _wait(error: Exception) -> bool | float:
    if not isinstance(error, PassingError):
        return False
    if error.after is None:
        return True
    return error.after if error.after <= LONGEST_WAIT else False


class Api:
    """A service's HTTP API, asked with GET only, so that asking twice does no harm.

    Args:
        base_url: everything is below its host.
        headers: sent with each request, credentials among them.
        auth: user name and password for HTTP Basic.
        explain: turns a reply that is an error into what it means for this service; what it
            leaves (``None``) is explained by its status.
        redirects: how many are followed, and only to the same scheme, host and port.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        explain: Explain | None = None,
        redirects: int = MOST_REDIRECTS,
    ) -> None:
        headers = headers or {}
        if not all(re.fullmatch(r"[ -~]*", value) for value in headers.values()):
            raise IntegrationError(
                "A credential has a line break or a character that cannot be sent. Enter it again.",
                "malformed_credential",
                permanent=True,
            )
        self._base_url = base_url.rstrip("/") + "/"
        self._explain = explain
        self._redirects = redirects
        self._client = client(headers=headers, auth=auth)

    def __enter__(self) -> "Api":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, params: Params | None = None) -> httpx.Response:
        """Ask for a path below the base URL, or a whole URL on the same host.

        Returns:
            The reply, whose status is 2xx.

        Raises:
            IntegrationError: there is none, even after trying again.
        """
        attempts = stamina.retry_context(
            on=_wait,
            attempts=get_settings().attempts,
            timeout=get_settings().operation_timeout,
            wait_max=LONGEST_WAIT,
        )
        for attempt in attempts:
            with attempt:
                try:
                    return self._once(path, params)
                except PassingError as error:
                    # Stamina's own line on this does not say who was asked. No path or query:
                    # they may hold a secret.
                    _, host, port = origin_of(self._base_url)
                    logger.warning(
                        "%s:%d failed for now (attempt %d): %s", host, port, attempt.num, error.code
                    )
                    raise
        raise AssertionError("the last attempt returns or raises")

    def json(self, path: str, params: Params | None = None) -> Any:
        """The JSON of a reply, see :meth:`get`."""
        return self.parsed(self.get(path, params))

    @staticmethod
    def parsed(reply: httpx.Response) -> Any:
        """The JSON of a reply.

        Raises:
            IntegrationError: it is none.
        """
        try:
            return reply.json()
        except ValueError:
            pass
        raise IntegrationError("The service answered with something other than JSON.", "no_json")

    def _once(self, path: str, params: Params | None) -> httpx.Response:
        try:
            url = urljoin(self._base_url, path.lstrip("/") if "://" not in path else path)
            for _ in range(self._redirects + 1):
                if origin_of(url) != origin_of(self._base_url):
                    raise IntegrationError(
                        "The service points to another host. Credentials are never sent there: "
                        "enter the right URL.",
                        "redirected",
                        permanent=True,
                    )
                reply = self._client.get(url, params=params)
                if not reply.is_redirect:
                    return self._checked(reply)
                url, params = urljoin(url, reply.headers["Location"]), None
        except OutgoingError as error:
            raise _translated(error) from None
        except (httpx.InvalidURL, httpx.HTTPError, ValueError):
            pass
        else:
            raise IntegrationError("The service redirects.", "redirected", permanent=True)
        raise IntegrationError(
            "The service answered in a way that is not understood.", "unexpected_reply"
        )

    def _checked(self, reply: httpx.Response) -> httpx.Response:
        if reply.is_success:
            return reply
        raise (self._explain(reply) if self._explain else None) or by_status(reply)


def _translated(error: OutgoingError) -> IntegrationError:
    if error.passing:
        return PassingError(str(error), "unreachable")
    refused = isinstance(error, RefusedDestinationError)
    code = "destination_refused" if refused else "unreachable"
    return IntegrationError(str(error), code, permanent=refused)


def by_status(reply: httpx.Response) -> IntegrationError:
    """What a reply's status means where a service has no say of its own."""
    status = reply.status_code
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return PassingError(
            "The service says that it is asked too often.", "rate_limited", retry_after(reply)
        )
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return PassingError(
            f"The service has a problem (HTTP {status}).", "service_failing", retry_after(reply)
        )
    if status == httpx.codes.UNAUTHORIZED:
        return IntegrationError(
            "The service refuses the credentials. Enter valid ones.",
            "credentials_refused",
            permanent=True,
        )
    if status == httpx.codes.FORBIDDEN:
        return IntegrationError(
            "The service takes the credentials, and they do not allow this. Give them more rights.",
            "credentials_insufficient",
            permanent=True,
        )
    return IntegrationError(
        f"The service refuses the request (HTTP {status}). See whether the configuration is right.",
        "request_refused",
        permanent=True,
    )
