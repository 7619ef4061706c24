"""The settings of this application, read at call time."""

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

PREFIX = "API_KEYS_"


@dataclass(frozen=True, slots=True)
class ApiKeySettings:
    #: Whether keys that do not have this product's form are looked up too: those that were
    #: imported, of which only the hash is known. Off, since each such text costs a query.
    accept_imported: bool
    #: No key is valid for longer; ``None`` allows keys that never expire.
    maximum_lifetime: timedelta | None
    #: Requests that one key may make, as "600/min"; ``None`` is no limit.
    throttle_rate: str | None


@lru_cache(maxsize=1)
def get_settings() -> ApiKeySettings:
    """Return the settings in force.

    Raises:
        ImproperlyConfigured: a setting is of the wrong type.
    """
    accept_imported = getattr(settings, f"{PREFIX}ACCEPT_IMPORTED", False)
    if not isinstance(accept_imported, bool):
        raise ImproperlyConfigured(f"{PREFIX}ACCEPT_IMPORTED is True or False.")
    lifetime = getattr(settings, f"{PREFIX}MAXIMUM_LIFETIME", None)
    if lifetime is not None and not (isinstance(lifetime, timedelta) and lifetime > timedelta()):
        raise ImproperlyConfigured(
            f"{PREFIX}MAXIMUM_LIFETIME is a positive datetime.timedelta, or None for no maximum."
        )
    rate = getattr(settings, f"{PREFIX}THROTTLE_RATE", "600/min")
    if rate is not None and not _is_rate(rate):
        raise ImproperlyConfigured(
            f"{PREFIX}THROTTLE_RATE is a number of requests and a unit of time, such as "
            "'600/min', or None for no limit."
        )
    return ApiKeySettings(accept_imported, lifetime, rate)


def _is_rate(rate: Any) -> bool:
    if not isinstance(rate, str):
        return False
    number, _, period = rate.partition("/")
    return number.isdecimal() and int(number) > 0 and period[:1] in tuple("smhd")


def _reset(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith(PREFIX):
        get_settings.cache_clear()


setting_changed.connect(_reset, dispatch_uid="apikeys.conf")
