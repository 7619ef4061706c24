from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from apikeys.conf import ApiKeySettings, get_settings


def test_without_settings(settings) -> None:
    for name in ("ACCEPT_IMPORTED", "MAXIMUM_LIFETIME", "THROTTLE_RATE"):
        delattr(settings, f"API_KEYS_{name}")
    assert get_settings() == ApiKeySettings(False, None, "600/min")


def test_a_change_is_seen_at_once(settings) -> None:
    assert get_settings().maximum_lifetime is None
    settings.API_KEYS_MAXIMUM_LIFETIME = timedelta(days=1)
    assert get_settings().maximum_lifetime == timedelta(days=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCEPT_IMPORTED", "yes"),
        ("ACCEPT_IMPORTED", None),
        ("MAXIMUM_LIFETIME", 90),
        ("MAXIMUM_LIFETIME", timedelta()),
        ("MAXIMUM_LIFETIME", timedelta(days=-1)),
        ("THROTTLE_RATE", 600),
        ("THROTTLE_RATE", "600"),
        ("THROTTLE_RATE", "0/min"),
        ("THROTTLE_RATE", "many/min"),
        ("THROTTLE_RATE", "600/year"),
        ("THROTTLE_RATE", ""),
    ],
    ids=repr,
)
@pytest.mark.django_db  # JSONField asks the database whether it knows JSON
def test_a_setting_of_the_wrong_type_is_found_by_the_checks(settings, name: str, value) -> None:
    setattr(settings, f"API_KEYS_{name}", value)
    with pytest.raises(ImproperlyConfigured, match=f"API_KEYS_{name}"):
        get_settings()
    [found] = [message for message in run_checks() if message.id == "apikeys.E001"]
    assert f"API_KEYS_{name}" in found.msg


@pytest.mark.django_db  # JSONField asks the database whether it knows JSON
def test_the_settings_of_the_site_are_right() -> None:
    assert not [message for message in run_checks() if message.id == "apikeys.E001"]
