"""Derived keys kept in memory: bounded, shared by threads, and each derived only once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key")


class KeyCache(Generic[Key]):
    """The ``size`` derived keys that were used last.

    A hit takes no lock: ``get`` and ``move_to_end`` of an ``OrderedDict`` are each one step under
    the interpreter lock, and a key that was evicted between them is still the right key. A miss
    derives outside of the lock, and threads that miss on the same key together wait for one
    derivation instead of each doing it.

    Raises:
        ValueError: ``size`` is below 1.
    """

    __slots__ = ("_derivations", "_entries", "_last", "_lock", "size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a key cache holds at least 1 key, not {size}")
        self.size = size
        self._entries: OrderedDict[Hashable, Key] = OrderedDict()
        self._last: Key | None = None
        self._derivations: dict[Hashable, Future[Key]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._entries

    def get(self, name: Hashable) -> Key | None:
        """Return the key of this name and mark it as used, or ``None``."""
        entry = self._entries.get(name)
        if entry is not None and entry is not self._last:  # rows of one tenant come in runs
            try:
                self._entries.move_to_end(name)
            except KeyError:  # another thread evicted it just now
                pass
            self._last = entry
        return entry

    def derive(self, name: Hashable, derivation: Callable[[str], Key], salt: str) -> Key:
        """Return the key of this name, made by ``derivation(salt)`` unless it is there already."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                return entry
            running = self._derivations.get(name)
            mine: Future[Key] = Future()
            if running is None:
                self._derivations[name] = mine
        if running is not None:
            return running.result()
        return self._run(name, derivation, salt, mine)

    def _run(
        self, name: Hashable, derivation: Callable[[str], Key], salt: str, mine: "Future[Key]"
    ) -> Key:
        try:
            entry = derivation(salt)
        except BaseException as error:
            with self._lock:
                del self._derivations[name]
            mine.set_exception(error)
            raise
        with self._lock:
            self._entries[name] = entry
            self._last = entry
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)
            del self._derivations[name]
        mine.set_result(entry)
        return entry

    def clear(self) -> None:
        """Forget every key."""
        with self._lock:
            self._entries.clear()
            self._last = None
