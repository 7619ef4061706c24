"""Where master keys come from.

A provider is a class that is called with the ``ENCRYPTION`` mapping and has one method,
``keys()``. It is the seam for a key management service: fetch or unwrap the keys there, and name
the class in ``ENCRYPTION["KEY_PROVIDER"]``.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol


class MasterKeys(NamedTuple):
    """The secrets of one configuration, as text: one that writes, any number that only read."""

    primary: str
    fallbacks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<MasterKeys: a primary and {len(self.fallbacks)} fallbacks>"

    __str__ = __repr__


class KeyProvider(Protocol):
    """What ``KEY_PROVIDER`` names."""

    def __init__(self, settings: Mapping[str, object]) -> None: ...

    def keys(self) -> MasterKeys:
        """Return the master keys; raise ``ValueError`` with the way out if there are none."""
        ...


class EnvironmentKeyProvider:
    """Keys from the settings, or else from the environment or a mounted secret file.

    ``MASTER_KEY``, else ``MASTER_ENCRYPTION_KEY``, else the content of the file that
    ``MASTER_ENCRYPTION_KEY_FILE`` names. ``MASTER_KEY_FALLBACKS``, else
    ``MASTER_ENCRYPTION_KEY_FALLBACKS`` (separated by commas or newlines) and ``OLD_MASTER_KEY``.
    """

    def __init__(
        self, settings: Mapping[str, object], environ: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings
        self._environ = os.environ if environ is None else environ

    def keys(self) -> MasterKeys:
        """Read the keys anew.

        Raises:
            ValueError: no key, two sources for one key, an unreadable file, or a wrong type.
        """
        return MasterKeys(self._primary(), tuple(self._fallbacks()))

    def _primary(self) -> str:
        configured = self._settings.get("MASTER_KEY")
        if configured:
            return _as_key(configured, "MASTER_KEY")
        value = self._environ.get("MASTER_ENCRYPTION_KEY", "").strip()
        path = self._environ.get("MASTER_ENCRYPTION_KEY_FILE", "").strip()
        if value and path:
            raise ValueError(
                "both MASTER_ENCRYPTION_KEY and MASTER_ENCRYPTION_KEY_FILE are set; unset one"
            )
        if path:
            value = _read(path)
        if not value:
            raise ValueError(
                "no master key: MASTER_ENCRYPTION_KEY (or MASTER_ENCRYPTION_KEY_FILE, or "
                "ENCRYPTION['MASTER_KEY']) is not set"
            )
        return value

    def _fallbacks(self) -> Iterable[str]:
        configured = self._settings.get("MASTER_KEY_FALLBACKS")
        if configured is not None:
            if isinstance(configured, str) or not isinstance(configured, Iterable):
                raise ValueError("MASTER_KEY_FALLBACKS is a list of keys")
            return [_as_key(key, "MASTER_KEY_FALLBACKS") for key in configured]
        listed = self._environ.get("MASTER_ENCRYPTION_KEY_FALLBACKS", "")
        old = self._environ.get("OLD_MASTER_KEY", "")
        return [key for key in map(str.strip, [*re.split(r"[,\n]", listed), old]) if key]


def _as_key(value: object, entry: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{entry} is text, not {type(value).__name__}")
    return value


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    raise ValueError(f"MASTER_ENCRYPTION_KEY_FILE cannot be read: {reason}")
