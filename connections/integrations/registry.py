"""All services that this installation knows: those shipped, and those of other packages."""

import logging
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from connections.integrations.base import Integration
from connections.integrations.github import GitHub
from connections.integrations.prometheus import Prometheus
from connections.integrations.stripe import Stripe

ENTRY_POINT_GROUP = "dashtray.integrations"
SHIPPED: tuple[type[Integration], ...] = (GitHub, Prometheus, Stripe)

logger = logging.getLogger(__name__)


@cache
def integrations() -> Mapping[str, Integration]:
    """Every integration by its service, in the order of their titles.

    A package's integration that cannot be loaded is left out and named in the log, and by a
    system check: its connections say "unsupported", and all others go on.
    """
    found: dict[str, Integration] = {kind.service: kind() for kind in SHIPPED}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        problem = load(entry, found)
        if problem:
            logger.warning("Integration %s of another package is left out: %s", entry.name, problem)
    return dict(sorted(found.items(), key=lambda item: item[1].title.lower()))


def load(entry: EntryPoint, found: dict[str, Integration]) -> str | None:
    """Add the integration that an entry point names, or say why it cannot be."""
    try:
        integration = entry.load()()
    except Exception as error:  # noqa: BLE001  # whatever another package raises
        return f"loading it raised {type(error).__name__}"
    if not isinstance(integration, Integration):
        return "it is not an Integration"
    if integration.service in found:
        return "another integration has the same service"
    found[integration.service] = integration
    return None


def get(service: str) -> Integration | None:
    """The integration of a service, or ``None`` where this installation has none."""
    return integrations().get(service)
