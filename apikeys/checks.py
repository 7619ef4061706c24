"""System checks of this application."""

from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from apikeys.conf import get_settings


@register
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """``apikeys.E001``: a setting of the wrong type."""
    try:
        get_settings()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="apikeys.E001")]
    return []
