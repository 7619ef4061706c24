"""What this process did, as plain integers: cheap enough to count every single operation.

``COUNTS.decryptions += 1`` costs some 20 ns and takes no lock. CPython switches threads only at
calls and backward jumps, and there is none between the read and the write of such a line, so with
the interpreter lock no count is lost; without it (free-threaded builds) a few may be.

Nothing here resets while a process lives, whatever happens to its keyring: what reads the figures
takes differences. A forked child starts at zero (``encryption.conf`` sees to it), else it would
report the work of its parent a second time.
"""

import threading
from typing import Final


class Counts:
    """Figures of one process.

    Attributes:
        encryptions, decryptions: calls, whether they succeed or fail.
        cache_misses: calls, of both kinds, that did not find their tenant's key in memory. All
            others did (a v1 token that is tried under several keys can miss more than once).
        derivations: tenant keys that were derived. Threads that miss together share one.
        failures: errors of this package by the name of their class; also those that the caller
            expects and catches.
    """

    __slots__ = (
        "_lock",
        "cache_misses",
        "decryptions",
        "derivations",
        "encryptions",
        "failures",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin at zero, with a lock that no thread holds."""
        self.encryptions = 0
        self.decryptions = 0
        self.cache_misses = 0
        self.derivations = 0
        self.failures: dict[str, int] = {}
        self._lock = threading.Lock()

    def fail(self, name: str) -> None:
        """Count an error by the name of its class."""
        with self._lock:
            self.failures[name] = self.failures.get(name, 0) + 1

    def snapshot(self) -> "dict[tuple[str, str], int]":
        """Return the figures as they are now, by ``(name, detail)``."""
        with self._lock:
            failures = dict(self.failures)
        operations = self.encryptions + self.decryptions
        misses = self.cache_misses
        return {
            ("operations", "encrypt"): self.encryptions,
            ("operations", "decrypt"): self.decryptions,
            ("cache", "hit"): max(operations - misses, 0),
            ("cache", "miss"): misses,
            ("derivations", ""): self.derivations,
            **{("failures", name): count for name, count in failures.items()},
        }


#: The figures of this process.
COUNTS: Final = Counts()
