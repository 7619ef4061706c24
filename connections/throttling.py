"""How often a connection may be used by request: its service has limits of its own."""

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from connections.conf import get_settings


class UseThrottle(SimpleRateThrottle):
    """Tests and syncs of one connection, whoever asks for them."""

    scope = "connection_use"

    def get_rate(self) -> str:
        return f"{get_settings().tests_per_minute}/min"

    def get_cache_key(self, request: Request, view: Any) -> str:
        return self.cache_format % {"scope": self.scope, "ident": view.kwargs["connection_id"]}
