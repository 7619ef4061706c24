"""System checks."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from django.core.checks import CheckMessage, Error, Warning as CheckWarning, register
from django.core.exceptions import ImproperlyConfigured

from connections.conf import get_settings
from connections.integrations.registry import ENTRY_POINT_GROUP, SHIPPED, load


@register
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """``connections.E001``: the ``CONNECTIONS`` setting cannot be used."""
    try:
        get_settings()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="connections.E001")]
    return []


@register
def check_integrations(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """``connections.W001``: an integration of another package cannot be used."""
    found = {kind.service: kind() for kind in SHIPPED}
    problems = [(entry.name, load(entry, found)) for entry in entry_points(group=ENTRY_POINT_GROUP)]
    return [
        CheckWarning(
            f"The integration {name} of another package is left out: {problem}.",
            hint="Its connections say that their service is unsupported, and keep what they hold.",
            id="connections.W001",
        )
        for name, problem in problems
        if problem
    ]
