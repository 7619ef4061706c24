"""Derived keys kept in memory: bounded, shared by threads, and each derived only once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from encryption.core.counts import COUNTS

Key = TypeVar("Key")


class _Derivation(Generic[Key]):
    """One that others wait for, and what became of it. (A ``Future`` for each makes a lock and a
    condition also where nobody waits, which costs as much as the derivation.)"""

    __slots__ = ("error", "finished", "key")

    #: Set when it is over, unless there was an error.
    key: Key

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.finished = threading.Event()


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
        #: Those under way; ``None`` as long as nobody waits for it.
        self._derivations: dict[Hashable, _Derivation[Key] | None] = {}
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
            if name in self._derivations:
                running = self._derivations[name] or _Derivation()
            else:
                running = None
            self._derivations[name] = running
        if running is not None:
            running.finished.wait()
            if running.error is not None:
                raise running.error
            return running.key
        try:
            entry = derivation(salt)
            COUNTS.derivations += 1
            with self._lock:
                self._entries[name] = entry
                self._last = entry
                while len(self._entries) > self.size:
                    self._entries.popitem(last=False)
                waiting = self._derivations.pop(name)
        except BaseException as error:  # also a Ctrl-C: who asks next must not wait for this one
            with self._lock:
                waiting = self._derivations.pop(name, None)
            if waiting is not None:
                waiting.error = error
                waiting.finished.set()
            raise
        if waiting is not None:
            waiting.key = entry
            waiting.finished.set()
        return entry

    def renew_lock(self) -> None:
        """After a fork: a thread that the child does not have may have held the lock, or have been
        deriving. The keys that are there are whole, for a fork comes between two steps."""
        self._lock = threading.Lock()
        self._derivations = {}
