"""The settings of connections, the registry of services, and the system checks on both."""

import logging
from importlib.metadata import EntryPoint

import pytest
from django.core.checks.registry import registry as check_registry
from django.core.exceptions import ImproperlyConfigured

from connections import checks
from connections.conf import get_settings
from connections.integrations import registry
from connections.integrations.base import Integration
from connections.integrations.fields import CredentialField
from tests.connections.factories import CANARY, ConnectionFactory


class Fax(Integration):
    """A service that another package brings."""

    service = "fax"
    title = "A fax"
    credential_fields = (CredentialField("pin", "PIN", required=True),)

    def check(self, credentials, config):
        pass

    def fetch_metrics(self, credentials, config, metric_ids, start, end):
        yield from ()


class Broken(Integration):
    """It lacks what it has to have, so there can be no instance of it."""


GROUP = registry.ENTRY_POINT_GROUP
HERE = "tests.connections.test_settings"


@pytest.fixture
def installed(monkeypatch):
    """Have other packages name these in their entry points."""

    def installed(**entries):
        found = [EntryPoint(name, f"{HERE}:{value}", GROUP) for name, value in entries.items()]
        for module in (registry, checks):
            monkeypatch.setattr(module, "entry_points", lambda group: found)
        registry.integrations.cache_clear()

    yield installed
    monkeypatch.undo()
    registry.integrations.cache_clear()


def test_the_settings_have_defaults(settings):
    del settings.CONNECTIONS
    assert get_settings().allowed_hosts == ()
    assert get_settings().lease.total_seconds() == 180


@pytest.mark.parametrize(
    "value",
    [
        "text",
        {"ALLOWED_HOST": []},
        {"ALLOWED_HOSTS": "a.example"},
        {"ALLOWED_HOSTS": [1]},
        {"ATTEMPTS": 1.5},
        {"ATTEMPTS": True},
        {"REQUEST_TIMEOUT": 0},
        {"REQUEST_TIMEOUT": "5"},
    ],
)
def test_settings_that_cannot_be_used_are_told_by_a_check(settings, value):
    settings.CONNECTIONS = value
    with pytest.raises(ImproperlyConfigured):
        get_settings()
    (message,) = checks.check_settings(None)
    assert message.id == "connections.E001"
    assert checks.check_settings in check_registry.get_checks()


def test_a_service_of_another_package_is_known(installed):
    installed(fax="Fax")
    assert list(registry.integrations()) == ["fax", "github", "prometheus", "stripe"]
    assert checks.check_integrations(None) == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("Broken", "TypeError"),
        ("nothing", "AttributeError"),
        ("str", "AttributeError"),
        ("CANARY.upper", "not an Integration"),
        ("registry.Stripe", "same service"),
    ],
)
def test_one_that_cannot_be_used_stops_no_other(installed, caplog, value, problem):
    installed(bad=value, fax="Fax")
    with caplog.at_level(logging.WARNING):
        assert set(registry.integrations()) == {"fax", "github", "prometheus", "stripe"}
    assert problem in caplog.text
    (message,) = checks.check_integrations(None)
    assert message.id == "connections.W001"
    assert "bad" in message.msg


@pytest.mark.django_db
def test_a_service_that_comes_back_finds_what_was_kept(installed):
    connection = ConnectionFactory(service="fax", credentials={"pin": CANARY})
    assert connection.credential_fields() == {}
    installed(fax="Fax")
    assert connection.usable_credentials() == {"pin": CANARY}
