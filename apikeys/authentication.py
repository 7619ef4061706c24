"""Authentication of REST requests by ``Authorization: Bearer <API key>`` (RFC 6750, section 2.1).

The other two ways of RFC 6750, a key in the body or the URL, are refused where they are seen:
addresses end up in logs, histories and Referer headers.
"""

from typing import Any, Final
from urllib.parse import unquote

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, ParseError, PermissionDenied
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

from apikeys import tokens
from apikeys.conf import get_settings
from apikeys.models import ApiKey
from apikeys.usage import record_use
from encryption import sha256_hex
from projects.clients import client_address

SCHEME: Final = "Bearer"

#: No longer body is searched for keys.
SEARCHED_BYTES: Final = 64 * 1024


class ApiKeyUser(AnonymousUser):
    """``request.user`` of a request with an API key: somebody, but nobody of the user table.

    It has no ``pk``, no permission of Django's and no session.
    """

    def __init__(self, key: ApiKey) -> None:
        super().__init__()
        self.key = key

    def __str__(self) -> str:
        return f"api-key:{self.key.pk}"

    @property
    def is_authenticated(self) -> Any:
        return True

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        return False

    def has_module_perms(self, module: str) -> bool:
        return False


class ApiKeyAuthentication(BaseAuthentication):
    """Sets ``request.auth`` to the :class:`ApiKey`, and ``request.user`` to an ``ApiKeyUser``.

    A view is open to API keys only if it says which scopes it needs, in ``required_scopes`` (see
    ``projects.permissions.ProjectScoped``), or if it is open to everybody.
    """

    def authenticate(self, request: Request) -> tuple[ApiKeyUser, ApiKey] | None:
        _refuse_key_in_url(request)
        header = request.META.get("HTTP_AUTHORIZATION", "")
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() != SCHEME.lower():
            _refuse_key_in_body(request)
            return None  # another class may know the scheme
        key = self._verified(credentials, request)
        _require_open(request)
        record_use(key)
        return ApiKeyUser(key), key

    def authenticate_header(self, request: Request) -> str:
        return SCHEME

    def _verified(self, credentials: str, request: Request) -> ApiKey:
        """Return the key, after at most one query, which the unique index answers."""
        if not _may_exist(credentials):
            raise AuthenticationFailed("This is not an API key.", "api_key_malformed")
        key = ApiKey.objects.by_hash(sha256_hex(credentials))
        if key is None:
            raise AuthenticationFailed("There is no such API key.", "api_key_unknown")
        if key.status is not ApiKey.Status.ACTIVE:
            raise AuthenticationFailed(f"This API key is {key.status}.", f"api_key_{key.status}")
        if not key.accepts_address(client_address(request._request)):
            raise AuthenticationFailed(
                "This API key is not accepted from your address.", "api_key_address"
            )
        return key


def _may_exist(credentials: str) -> bool:
    """Decide, without a query, whether a text is worth one."""
    if not tokens.is_printable(credentials):
        return False
    if tokens.has_shape(credentials):
        return tokens.is_valid(credentials)
    return get_settings().accept_imported


def _require_open(request: Request) -> None:
    view = (request.parser_context or {}).get("view")
    if view is None or hasattr(view, "required_scopes"):
        return  # its permissions decide
    if not all(type(permission) is AllowAny for permission in view.get_permissions()):
        raise PermissionDenied("No API key may do this; log in.", "person_required")


def _refuse_key_in_url(request: Request) -> None:
    # The path has been decoded by the server, the query has not.
    query = request.META.get("QUERY_STRING", "")
    address = f"{request.path}?{unquote(query) if '%' in query else query}"
    if tokens.contains_key(address):
        raise ParseError(
            "An API key stands in the address of this request, where logs keep it. Revoke that "
            "key, and send another in the Authorization header.",
            "api_key_in_url",
        )


def _refuse_key_in_body(request: Request) -> None:
    """Tell a client that authenticates by the body, and by nothing else, that this fails.

    A browser with a session, or a client with a key in its header, may have a reason to send a
    text that has a key's form, as the credential of a connection: that is for the view to judge.
    """
    http = request._request
    length = http.META.get("CONTENT_LENGTH") or "0"
    if (
        settings.SESSION_COOKIE_NAME in http.COOKIES
        or not length.isdecimal()
        or not 0 < int(length) <= SEARCHED_BYTES
    ):
        return
    # Django keeps what is read here, so that the view can read it again.
    if tokens.contains_key(http.body.decode("latin-1")):
        raise ParseError(
            "An API key stands in the body of this request. Send it in the Authorization header.",
            "api_key_in_body",
        )
