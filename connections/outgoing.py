"""Requests to places that a user named, which must never become requests to our own network.

A name is resolved once, every address that it has is checked, and the connection is made to the
checked address, so a name that resolves differently a moment later changes nothing. TLS and the
Host header still carry the name. No proxy of the environment is used, and no redirect is followed
by the transport.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpcore
import httpx

from connections.addresses import ForbiddenAddressError, check_addresses, is_allowed_host
from connections.conf import get_settings

LARGEST_REPLY = 8 * 1024 * 1024
DEFAULT_PORTS = {"http": 80, "https": 443}


class OutgoingError(Exception):
    """A request could not be made, or not be answered. The message holds nothing of either."""

    #: Whether the same request may well succeed a moment later.
    passing = False


class UnreachableError(OutgoingError):
    """No connection, or it broke."""

    passing = True


class DeadlineError(OutgoingError):
    """It took too long."""


class RefusedDestinationError(OutgoingError):
    """The destination is not public, or no destination at all."""


class OversizedReplyError(OutgoingError):
    """The reply is larger than anything that is expected."""


def check_url(url: str) -> SplitResult:
    """Return the parts of a URL that a request may be sent to, as far as the text tells.

    Raises:
        RefusedDestinationError: it is not a plain http(s) URL with a host, or has a user name in
            it. Its message is for the person who typed the URL and does not repeat it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedDestinationError("This is not a URL.") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise RefusedDestinationError("Enter an http or https URL with a host.")
    if "@" in parts.netloc:
        raise RefusedDestinationError("A URL has no user name or password in it here.")
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise RefusedDestinationError("A URL has no spaces, control characters or backslashes.")
    try:
        _ = httpx.URL(url).host  # which knows more of hosts, such as that no number begins with 0
    except (httpx.InvalidURL, ValueError):
        raise RefusedDestinationError("The host is no name and no address of a URL.") from None
    return parts


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL, in one spelling.

    Raises:
        RefusedDestinationError: see :func:`check_url`.
    """
    parts = check_url(url)
    host = str(parts.hostname).removesuffix(".")
    return parts.scheme, host, parts.port or DEFAULT_PORTS[parts.scheme]


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host that may be connected to.

    Raises:
        RefusedDestinationError: one of them is not public, and no setting allows the host.
        UnreachableError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnreachableError("The host has no address.") from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if is_allowed_host(host, port, get_settings().allowed_hosts):
        return addresses
    try:
        return check_addresses(addresses)
    except ForbiddenAddressError:
        raise RefusedDestinationError(
            "The host is not on the public Internet. If it is meant to be reached, the operator "
            "can allow it in CONNECTIONS['ALLOWED_HOSTS']."
        ) from None


class _Deadline:
    """A moment, and what is left until then."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def limit(self, timeout: float | None) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError("It took too long.")
        return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection that no reply, however slowly it drips, keeps open past the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.limit(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.limit(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        limit = self._deadline.limit(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, limit), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        *others, last = resolve(host, port)
        for address in others:
            try:
                return self._connect(address, port, timeout, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(last, port, timeout, socket_options)

    def _connect(self, address: str, port: int, timeout: float | None, options: Any) -> _Stream:
        limit = self._deadline.limit(timeout)
        stream = self._backend.connect_tcp(address, port, limit, socket_options=options)
        return _Stream(stream, self._deadline)


class GuardedTransport(httpx.BaseTransport):
    """An httpx transport whose connections are checked, and whose replies are read whole.

    Args:
        seconds: within which all requests of this transport have to be done.
        ssl_context: instead of one that trusts the usual authorities.
    """

    def __init__(self, seconds: float, ssl_context: ssl.SSLContext | None = None) -> None:
        self._deadline = _Deadline(seconds)
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            network_backend=_Backend(self._deadline),
            max_connections=4,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            OutgoingError: a subclass says what went wrong. No cause is chained to it, since the
                messages of HTTP libraries quote what they choke on.
        """
        check_url(str(request.url))
        with (
            _plain_errors(),
            self._pool.stream(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.read(),
                extensions={"timeout": request.extensions.get("timeout", {})},
            ) as reply,
        ):
            _refuse_coding(reply.headers)
            body = self._read(reply.iter_stream())
            headers = [pair for pair in reply.headers if pair[0].lower() != b"content-length"]
            return httpx.Response(reply.status, headers=headers, content=body)
        raise UnreachableError("The connection broke.")

    def _read(self, chunks: Iterator[bytes]) -> bytes:
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > LARGEST_REPLY:
                raise OversizedReplyError("The reply is larger than 8 MiB.")
        return bytes(body)

    def close(self) -> None:
        self._pool.close()


def _refuse_coding(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a compressed reply, which could be a thousand times larger than what is read of it."""
    for name, value in headers:
        if name.lower() == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise OutgoingError("The reply is compressed, which was not asked for.")


@contextmanager
def _plain_errors() -> Iterator[None]:
    problem: OutgoingError
    try:
        yield
        return
    except OutgoingError as error:
        problem = error
    except httpcore.TimeoutException:
        problem = UnreachableError("The host did not answer in time.")
    except (httpcore.NetworkError, httpcore.RemoteProtocolError, OSError):
        problem = UnreachableError("The connection could not be made, or broke.")
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, ValueError):
        problem = OutgoingError("The request cannot be sent.")
    # The error that quotes the request would be told together with this one.
    raise problem from None


def client(*, headers: Mapping[str, str], auth: tuple[str, str] | None = None) -> httpx.Client:
    """Return a client for the requests of one operation; close it, or use it in a ``with``.

    Args:
        headers: sent with every request.
        auth: user name and password for HTTP Basic.
    """
    settings = get_settings()
    return httpx.Client(
        transport=GuardedTransport(settings.operation_timeout),
        timeout=settings.request_timeout,
        trust_env=False,
        follow_redirects=False,
        auth=auth,
        headers={"Accept-Encoding": "identity", "User-Agent": "Dashtray", **headers},
    )
