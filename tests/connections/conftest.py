from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stamina

Allow = Callable[..., None]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Try again as often as the settings say, without waiting in between."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def allow(settings: Any) -> Allow:
    """Let requests reach hosts that are not public."""

    def allow(*hosts: str, **options: Any) -> None:
        settings.CONNECTIONS = {"ALLOWED_HOSTS": list(hosts), **options}

    return allow
