"""How often one API key may call."""

from typing import TYPE_CHECKING

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle, UserRateThrottle

from apikeys.conf import get_settings
from apikeys.models import ApiKey

if TYPE_CHECKING:  # REST framework imports its throttles while it makes its views
    from rest_framework.views import APIView


class ApiKeyRateThrottle(SimpleRateThrottle):
    """Counts the requests of each API key on its own; people are not its business.

    The count is kept in the default cache: share one between processes to make the limit exact.
    """

    scope = "api_key"

    def get_rate(self) -> str | None:
        return get_settings().throttle_rate

    def get_cache_key(self, request: Request, view: "APIView") -> str | None:
        if not isinstance(request.auth, ApiKey):
            return None
        return self.cache_format % {"scope": self.scope, "ident": request.auth.pk}


class PersonRateThrottle(UserRateThrottle):
    """REST framework's limit for users, which would take all API keys for one user."""

    def get_cache_key(self, request: Request, view: "APIView") -> str | None:
        if isinstance(request.auth, ApiKey):
            return None
        return super().get_cache_key(request, view)
