"""System checks of a deployment."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning as CheckWarning, register


@register(Tags.security, deploy=True)
def check_cache(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """``dashtray.W001``: limits are counted by each process for itself."""
    if not str(settings.CACHES["default"]["BACKEND"]).endswith("LocMemCache"):
        return []
    return [
        CheckWarning(
            "Attempts to log in and requests to the API are counted by each process for itself, "
            "so as many times the limit is allowed as there are processes.",
            "Set CACHE_URL to a Redis that they share.",
            id="dashtray.W001",
        )
    ]


@register(Tags.security, deploy=True)
def check_proxies(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """``dashtray.W002``: behind a proxy that is not counted, all clients have one address."""
    proxied = settings.SECURE_PROXY_SSL_HEADER is not None
    if not proxied or settings.REST_FRAMEWORK["NUM_PROXIES"]:
        return []
    return [
        CheckWarning(
            "TRUST_X_FORWARDED_PROTO says that there is a proxy and NUM_PROXIES that there is "
            "none: all clients are taken for one, and lock each other out.",
            "Set NUM_PROXIES to the number of proxies that each add to X-Forwarded-For.",
            id="dashtray.W002",
        )
    ]
