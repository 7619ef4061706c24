"""The ``CONNECTIONS`` settings: what may be reached, and how long things may take.

Read when first needed, never at import; forgotten when Django says that the setting changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed


@dataclass(frozen=True)
class ConnectionsSettings:
    """The ``CONNECTIONS`` dict, with its entries in lower case and its defaults filled in.

    Args:
        allowed_hosts: names or addresses that may be reached although they are not public, with
            or without a port: ``"prometheus.internal"``, ``"10.1.2.3:9090"``, ``"[fd00::1]:80"``.
            An entry with a port allows that port alone.
        request_timeout: seconds to wait for a connection, or for the next bytes of a reply.
        operation_timeout: seconds that a test or sync of one connection may take in all.
        attempts: how often a request is sent, at most, when it fails in passing.
        sync_interval: seconds after which a connection is due again.
        sync_history: days that the first sync of a connection reaches back.
        tests_per_minute: how often one connection may be tested or synced by request.
    """

    allowed_hosts: tuple[str, ...] = ()
    request_timeout: float = 10.0
    operation_timeout: float = 60.0
    attempts: int = 3
    sync_interval: float = 900.0
    sync_history: float = 30.0
    tests_per_minute: int = 20

    @property
    def lease(self) -> timedelta:
        """How long a sync may hold its connection: past that, its worker is taken for dead.

        Twice the time it may spend on the network, and a minute for the database.
        """
        return timedelta(seconds=2 * self.operation_timeout + 60)

    @classmethod
    def load(cls) -> "ConnectionsSettings":
        """Read Django's settings.

        Raises:
            ImproperlyConfigured: an entry is unknown or of the wrong type or value.
        """
        options = getattr(django_settings, "CONNECTIONS", {})
        if not isinstance(options, Mapping):
            raise ImproperlyConfigured("CONNECTIONS is a dict.")
        known = {field.name.upper(): field.name for field in fields(cls)}
        unknown = sorted(map(str, set(options) - set(known)))
        if unknown:
            raise ImproperlyConfigured(
                f"CONNECTIONS has unknown entries: {', '.join(unknown)}. "
                f"It knows {', '.join(sorted(known))}."
            )
        return cls(**{known[entry]: _checked(entry, options[entry]) for entry in options})


def _checked(entry: str, value: Any) -> Any:
    if entry == "ALLOWED_HOSTS":
        if isinstance(value, str) or not all(isinstance(host, str) for host in value):
            raise ImproperlyConfigured("CONNECTIONS['ALLOWED_HOSTS'] is a list of hosts.")
        return tuple(host.lower() for host in value)
    kinds = int if entry in {"ATTEMPTS", "TESTS_PER_MINUTE"} else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
        raise ImproperlyConfigured(f"CONNECTIONS['{entry}'] is a number above 0.")
    return value


_settings: ConnectionsSettings | None = None


def get_settings() -> ConnectionsSettings:
    """Return the settings, read once until they change.

    Raises:
        ImproperlyConfigured: see :meth:`ConnectionsSettings.load`.
    """
    global _settings
    if _settings is None:
        _settings = ConnectionsSettings.load()
    return _settings


def _on_setting_changed(*, setting: str, **kwargs: object) -> None:
    global _settings
    if setting == "CONNECTIONS":
        _settings = None


setting_changed.connect(_on_setting_changed, dispatch_uid="connections.conf")
