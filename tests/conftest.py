import inspect
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache
from django.db import connection
from django.views.debug import get_default_exception_reporter_filter

# How long an example takes says nothing on a machine that runs other tests meanwhile.
hypothesis.settings.register_profile("no deadline", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _forget() -> None:
    """No test is locked out or throttled for what another one did (its users have the same ids),
    or gets the filter that another one set: Django keeps that of the first page it shows."""
    cache.clear()
    get_default_exception_reporter_filter.cache_clear()


def pytest_report_header() -> str:
    return f"database: {connection.vendor}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests as Django's own test cases do.

    `async_to_sync` sends the ORM's work back to this thread, so that an async test shares the
    connection, and so the transaction, of the `db` fixture.
    """
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    test: Callable[..., Any] = async_to_sync(pyfuncitem.obj)
    arguments = pyfuncitem._fixtureinfo.argnames
    test(**{name: pyfuncitem.funcargs[name] for name in arguments})
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what needs a server's program out of the suite that needs none."""
    for item in items:
        if {"server", "broker"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.services)
