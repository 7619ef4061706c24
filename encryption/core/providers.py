"""Where master keys come from.

A provider is a class that is called with the ``ENCRYPTION`` mapping and has one method,
``keys()``. It is the seam for a key management service: fetch or unwrap the keys there, and name
the class in ``ENCRYPTION["KEY_PROVIDER"]``.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, repr=False)
class MasterKeys:
    """The secrets of one configuration, as text: one that writes, any number that only read."""

    primary: str
    fallbacks: tuple[str, ...] = ()


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
        if self._settings.get("MASTER_KEY"):
            return _as_key(self._settings["MASTER_KEY"], "MASTER_KEY")
        named = self._environment("MASTER_ENCRYPTION_KEY_FILE")
        if self._environment("MASTER_ENCRYPTION_KEY"):
            if named:
                raise ValueError(
                    "both MASTER_ENCRYPTION_KEY and MASTER_ENCRYPTION_KEY_FILE are set; unset one"
                )
            return self._environment("MASTER_ENCRYPTION_KEY")
        if named:
            return _read(named)
        raise ValueError(
            "no master key: MASTER_ENCRYPTION_KEY (or MASTER_ENCRYPTION_KEY_FILE, or "
            "ENCRYPTION['MASTER_KEY']) is not set"
        )

    def _fallbacks(self) -> Iterable[str]:
        if self._settings.get("MASTER_KEY_FALLBACKS") is not None:
            return _as_keys(self._settings["MASTER_KEY_FALLBACKS"], "MASTER_KEY_FALLBACKS")
        listed = self._environment("MASTER_ENCRYPTION_KEY_FALLBACKS")
        old = self._environment("OLD_MASTER_KEY")
        return [key for key in map(str.strip, [*re.split(r"[,\n]", listed), old]) if key]

    def _environment(self, name: str) -> str:
        return self._environ.get(name, "").strip()


# The functions below forget what they were given before they raise: a traceback page shows the
# locals of their frames.


def _as_key(value: object, entry: str) -> str:
    if isinstance(value, str):
        return value
    kind = type(value).__name__
    del value
    raise ValueError(f"{entry} is text, not {kind}")


def _as_keys(values: object, entry: str) -> list[str]:
    if not isinstance(values, str) and isinstance(values, Iterable):
        keys = list(values)
        if all(isinstance(key, str) for key in keys):
            return keys
        kinds = {type(key).__name__ for key in keys}
        del keys
    else:
        kinds = {type(values).__name__}
    del values
    raise ValueError(f"{entry} is a list of texts, not of {', '.join(sorted(kinds))}")


def _read(path: str) -> str:
    try:
        # A byte order mark is no part of the key.
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    else:
        if text:
            return text
        reason = "it is empty"
    raise ValueError(f"MASTER_ENCRYPTION_KEY_FILE cannot be used: {reason}")
