"""The cache of derived keys: bounded, in order of use, and each key derived only once."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from encryption.core.keycache import KeyCache

THREADS = 32
SECONDS = 10


def key_of(salt: str) -> str:
    return f"key of {salt}"


def fill(cache: KeyCache[str], *names: str) -> None:
    for name in names:
        assert cache.derive(name, key_of, name) == key_of(name)


def never(salt: str) -> str:
    raise AssertionError(f"{salt} was derived again")


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Let threads take turns far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# -- what it keeps ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1])
def test_a_cache_of_nothing_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"^a key cache holds at least 1 key, not {size}$"):
        KeyCache(size)


def test_empty() -> None:
    cache: KeyCache[str] = KeyCache(1)
    assert cache.get("a") is None
    assert "a" not in cache
    assert len(cache) == 0


def test_a_key_is_derived_from_the_salt_and_kept_by_name() -> None:
    cache: KeyCache[str] = KeyCache(2)
    assert cache.derive(("master", "a"), key_of, "a") == "key of a"
    assert cache.get(("master", "a")) == "key of a"
    assert ("master", "a") in cache
    assert cache.get("a") is None
    assert cache.derive(("master", "a"), never, "a") == "key of a"


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_never_holds_more_than_its_size(size: int) -> None:
    cache: KeyCache[str] = KeyCache(size)
    for count in range(1, 20):
        fill(cache, str(count))
        assert len(cache) == min(count, size)
    assert [name for name in map(str, range(1, 20)) if name in cache] == [
        str(name) for name in range(20 - size, 20)
    ]


def test_the_key_used_longest_ago_goes_first() -> None:
    cache: KeyCache[str] = KeyCache(3)
    fill(cache, "a", "b", "c")
    assert cache.get("a") == "key of a"
    fill(cache, "d")
    assert "b" not in cache
    assert cache.get("c") == "key of c"
    fill(cache, "e")
    assert "a" not in cache
    assert all(name in cache for name in "cde")


def test_a_key_used_again_after_a_newer_one_came_stays() -> None:
    cache: KeyCache[str] = KeyCache(2)
    fill(cache, "a")
    cache.get("a")
    fill(cache, "b")
    cache.get("a")
    fill(cache, "c")
    assert "a" in cache
    assert "b" not in cache


def test_asking_whether_a_key_is_there_is_no_use_of_it() -> None:
    cache: KeyCache[str] = KeyCache(2)
    fill(cache, "a", "b")
    assert "a" in cache
    fill(cache, "c")
    assert "a" not in cache


def test_a_forked_child_keeps_the_keys_and_waits_for_nobody() -> None:
    """The lock is held, and "b" is being derived, by threads that the child does not have."""
    cache: KeyCache[str] = KeyCache(2)
    fill(cache, "a")
    cache._lock.acquire()
    cache._derivations["b"] = None  # under way, in a thread that the child does not have
    cache.renew_lock()
    assert cache.get("a") == "key of a"
    fill(cache, "b")
    assert cache.derive("b", never, "b") == "key of b"


# -- threads ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("busy_switching")
def test_threads_that_miss_together_derive_once() -> None:
    cache: KeyCache[object] = KeyCache(4)
    together = threading.Barrier(THREADS)
    derivations = []

    def slow(salt: str) -> object:
        derivations.append(salt)
        threading.Event().wait(0.05)
        return object()

    def task(_: int) -> object:
        together.wait(SECONDS)
        return cache.derive("a", slow, "a")

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(task, range(THREADS)))
    assert derivations == ["a"]
    assert set(results) == {cache.get("a")}


class Running:
    """A derivation that runs in another thread until it is told to end."""

    def __init__(self, cache: KeyCache[str], name: str) -> None:
        self._began = threading.Event()
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._result = self._pool.submit(cache.derive, name, self._derive, name)
        assert self._began.wait(SECONDS)

    def _derive(self, salt: str) -> str:
        self._began.set()
        assert self._end.wait(SECONDS)
        return key_of(salt)

    def end(self) -> str:
        self._end.set()
        self._pool.shutdown()
        return self._result.result()


def test_a_running_derivation_holds_nobody_else_up() -> None:
    cache: KeyCache[str] = KeyCache(4)
    fill(cache, "a", "b")
    running = Running(cache, "slow")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cache.get, "a").result(SECONDS) == "key of a"
        assert pool.submit(cache.get, "slow").result(SECONDS) is None
        assert pool.submit(cache.derive, "b", never, "b").result(SECONDS) == "key of b"
        assert pool.submit(cache.derive, "c", key_of, "c").result(SECONDS) == "key of c"
        assert running.end() == "key of slow"
    assert cache.get("slow") == "key of slow"


class Name:
    """A name that tells each time it is looked up."""

    def __init__(self, looked_up: Callable[[], object]) -> None:
        self._looked_up = looked_up

    def __hash__(self) -> int:
        self._looked_up()
        return 1


class DerivationFailed(BaseException):
    """No `Exception`: a KeyboardInterrupt has to reach the waiting threads too."""


def test_a_failed_derivation_reaches_all_who_wait_and_is_not_kept() -> None:
    cache: KeyCache[str] = KeyCache(4)
    here: set[int] = set()
    all_here = threading.Event()

    def looked_up() -> None:
        here.add(threading.get_ident())
        if len(here) == THREADS:
            all_here.set()

    name = Name(looked_up)

    def fails(salt: str) -> str:
        # Each looks the name up under the lock, and then waits if a derivation is running.
        assert all_here.wait(SECONDS)
        failures.append(salt)
        raise DerivationFailed

    def task(_: int) -> str:
        try:
            return cache.derive(name, fails, "a")
        except DerivationFailed:
            return "failed"

    failures: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(task, range(THREADS)))
    assert results == ["failed"] * THREADS
    assert failures == ["a"]
    assert name not in cache
    assert len(cache) == 0
    assert cache.derive(name, key_of, "a") == "key of a"


def test_a_key_evicted_while_it_is_read_is_still_returned() -> None:
    cache: KeyCache[str] = KeyCache(2)
    lookups = 0

    def evict_at_the_second_lookup() -> None:
        nonlocal lookups
        lookups += 1
        if lookups == 2:
            fill(cache, "c", "d")

    name = Name(lambda: None)
    cache.derive(name, key_of, "a")
    fill(cache, "b")
    name._looked_up = evict_at_the_second_lookup
    assert cache.get(name) == "key of a"
    assert lookups == 2
    assert name not in cache
    assert len(cache) == 2


@pytest.mark.usefixtures("busy_switching")
def test_no_thread_ever_gets_the_key_of_another_name() -> None:
    cache: KeyCache[str] = KeyCache(3)

    def task(seed: int) -> int:
        names = random.Random(seed)
        wrong = 0
        for _ in range(2_000):
            name = str(names.randrange(8))
            entry = cache.get(name) or cache.derive(name, key_of, name)
            wrong += entry != key_of(name)
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(task, range(8))) == 0
    assert len(cache) <= 3
