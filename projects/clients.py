"""Where a request comes from."""

from django.http import HttpRequest
from rest_framework.settings import api_settings


def client_address(request: HttpRequest) -> str:
    """The address of the client, as the outermost proxy that is trusted saw it.

    ``NUM_PROXIES`` of REST framework's settings is how many are; without it, none is, and what a
    client says of itself in X-Forwarded-For counts for nothing.
    """
    direct: str = request.META.get("REMOTE_ADDR", "")
    trusted: int = api_settings.NUM_PROXIES or 0
    forwarded: str | None = request.META.get("HTTP_X_FORWARDED_FOR")
    if not trusted or forwarded is None:
        return direct
    addresses = forwarded.split(",")
    return addresses[-min(trusted, len(addresses))].strip()
