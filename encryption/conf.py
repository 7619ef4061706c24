"""The ``ENCRYPTION`` settings and the keyring made from them.

Read when first needed, never at import; forgotten when Django says that the setting changed.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from encryption.core import tokens
from encryption.core.blindindex import Indexer
from encryption.core.counts import COUNTS
from encryption.core.derivation import MasterKey
from encryption.core.keyring import DEFAULT_CACHE_SIZE, Keyring
from encryption.core.providers import KeyProvider, MasterKeys

DEFAULT_PROVIDER: Final = "encryption.core.providers.EnvironmentKeyProvider"
_HOW_TO_MAKE_A_KEY: Final = (
    "Make a key with `python manage.py generate_master_key` and set the environment variable "
    "MASTER_ENCRYPTION_KEY to it."
)
_ENTRIES: Final = {
    "MASTER_KEY",
    "MASTER_KEY_FALLBACKS",
    "KEY_PROVIDER",
    "WRITE_FORMAT",
    "READ_FORMATS",
    "KEY_CACHE_SIZE",
}
#: Master keys by their secret: the slow derivation of a root is paid once per process and key,
#: also when the settings change back and forth.
_MOST_MASTER_KEYS: Final = 64


@dataclass(frozen=True, repr=False)
class EncryptionSettings:
    """The ``ENCRYPTION`` dict, typed and with its defaults filled in.

    Args:
        provider: called with ``options``; gives the master keys.
        write_format: "v2" or "v1".
        read_formats: formats that are decrypted.
        key_cache_size: derived tenant keys kept in memory, at least 1.
        options: the dict itself, as the provider sees it.
    """

    provider: type[KeyProvider]
    write_format: str
    read_formats: tuple[str, ...]
    key_cache_size: int
    options: Mapping[str, object]

    @classmethod
    def load(cls) -> "EncryptionSettings":
        """Read Django's settings.

        Raises:
            ImproperlyConfigured: an entry is unknown or of the wrong type or value.
        """
        options = getattr(django_settings, "ENCRYPTION", {})
        try:
            if not isinstance(options, Mapping):
                raise ImproperlyConfigured("ENCRYPTION is a dict.")
            unknown = sorted(map(str, set(options) - _ENTRIES))
            if unknown:
                raise ImproperlyConfigured(
                    f"ENCRYPTION has unknown entries: {', '.join(unknown)}. "
                    f"It knows {', '.join(sorted(_ENTRIES))}."
                )
            return cls(
                provider=_provider(str(options.get("KEY_PROVIDER") or DEFAULT_PROVIDER)),
                write_format=_format(options.get("WRITE_FORMAT", tokens.V2), "WRITE_FORMAT"),
                read_formats=_formats(options.get("READ_FORMATS", tokens.FORMATS)),
                key_cache_size=_size(options.get("KEY_CACHE_SIZE", DEFAULT_CACHE_SIZE)),
                options=options,
            )
        except BaseException:
            del options  # it holds keys, and a traceback page shows the locals of this frame
            raise

    def master_keys(self) -> MasterKeys:
        """Ask the provider.

        Raises:
            ValueError: there is no key, or it cannot be read.
        """
        return self.provider(self.options).keys()


def _provider(path: str) -> type[KeyProvider]:
    try:
        provider: type[KeyProvider] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"ENCRYPTION['KEY_PROVIDER'] names {path}, which cannot be imported: {error}"
        ) from None
    return provider


def _format(value: object, entry: str) -> str:
    if not isinstance(value, str) or value not in tokens.FORMATS:
        raise ImproperlyConfigured(f"ENCRYPTION['{entry}'] knows {' and '.join(tokens.FORMATS)}.")
    return value


def _formats(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise ImproperlyConfigured("ENCRYPTION['READ_FORMATS'] is a list of formats.")
    return tuple(_format(entry, "READ_FORMATS") for entry in value)


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ImproperlyConfigured("ENCRYPTION['KEY_CACHE_SIZE'] is a whole number from 1 up.")
    return value


#: Held while settings are read and a keyring is made, so that a change of the settings comes either
#: before or after and what was read before it is not kept.
_lock = threading.RLock()
_master_keys: dict[str, MasterKey] = {}
_keyring: Keyring | None = None
_indexer: Indexer | None = None
_settings: EncryptionSettings | None = None


def get_settings() -> EncryptionSettings:
    """Return the settings, read once until they change.

    Raises:
        ImproperlyConfigured: see :meth:`EncryptionSettings.load`.
    """
    settings = _settings
    return _load() if settings is None else settings


def _load() -> EncryptionSettings:
    global _settings
    with _lock:
        if _settings is None:
            _settings = EncryptionSettings.load()
        return _settings


def get_keyring() -> Keyring:
    """Return the keyring of the current settings, made once until they change.

    Raises:
        ImproperlyConfigured: there is no usable master key; the message says the way out.
    """
    keyring = _keyring  # looked at once: another thread may reset it
    return _make_keyring() if keyring is None else keyring


def get_indexer() -> Indexer:
    """Return what makes blind indexes under the keys of the current keyring.

    Raises:
        ImproperlyConfigured: there is no usable master key; the message says the way out.
    """
    global _indexer
    keyring = get_keyring()
    indexer = _indexer
    if indexer is None or indexer.keys is not keyring.keys:
        indexer = _indexer = Indexer(keyring.keys, get_settings().key_cache_size)
    return indexer


def _make_keyring() -> Keyring:
    global _keyring
    with _lock:
        if _keyring is None:
            _keyring = build_keyring(get_settings())
        return _keyring


def build_keyring(settings: EncryptionSettings) -> Keyring:
    """Make a keyring from settings, sharing master keys that this process derived before.

    Raises:
        ImproperlyConfigured: there is no usable master key; the message says the way out.
    """
    try:
        return keyring_of(settings.master_keys(), settings)
    except ValueError as error:
        problem = str(error)
    # Out here, so that no context of this error holds a frame with the keys in it.
    raise ImproperlyConfigured(f"Encryption cannot be used: {problem}. {way_to_a_key()}")


def way_to_a_key() -> str:
    """Say how to get a usable master key, also to who put one where it is not looked for."""
    for name in ("MASTER_ENCRYPTION_KEY", "MASTER_ENCRYPTION_KEY_FILE"):
        if hasattr(django_settings, name):
            return (
                f"Django's settings have {name}, which is not read there: it is an environment "
                'variable. In the settings a key stands as ENCRYPTION = {"MASTER_KEY": ...}. '
                + _HOW_TO_MAKE_A_KEY
            )
    return _HOW_TO_MAKE_A_KEY


def keyring_of(keys: MasterKeys, settings: EncryptionSettings) -> Keyring:
    """Make a keyring of these keys.

    Raises:
        ValueError: one of them cannot be used.
        RepeatedKeyError: one stands twice.
    """
    return Keyring(
        _master_key(keys.primary),
        [_master_key(key) for key in keys.fallbacks],
        write_format=settings.write_format,
        read_formats=settings.read_formats,
        cache_size=settings.key_cache_size,
    )


def _master_key(secret: str) -> MasterKey:
    key = _master_keys.get(secret)
    if key is None:
        key = MasterKey(secret)
        if len(_master_keys) >= _MOST_MASTER_KEYS:
            _master_keys.clear()
        _master_keys[secret] = key
    return key


def reset() -> None:
    """Forget the settings and the keyring; the next use reads them anew.

    Call it after changing the environment of a running process. A change of Django's settings
    through ``override_settings`` calls it by itself.
    """
    global _keyring, _indexer, _settings
    with _lock:
        _keyring = _indexer = None
        _settings = None


def _on_setting_changed(*, setting: str, **kwargs: object) -> None:
    if setting == "ENCRYPTION":
        reset()


def _after_fork() -> None:
    """In a forked child: locks may be held by threads that only the parent has."""
    global _lock, _indexer
    _lock = threading.RLock()
    _indexer = None
    if _keyring is not None:
        _keyring.renew_locks()
    COUNTS.reset()
    for key in _master_keys.values():
        key.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

setting_changed.connect(_on_setting_changed, dispatch_uid="encryption.conf")
