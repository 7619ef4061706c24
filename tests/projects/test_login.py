"""Limits on guessing passwords."""

import logging
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
import redis
import time_machine
from django.contrib.auth import aauthenticate, authenticate
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client, RequestFactory
from pytest_django import Settings

from projects.attempts import Attempts, locked_out

PASSWORD = "correct horse battery"
LOGIN = "/admin/login/"
CHANGE = "/admin/password_change/"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh(settings: Settings, request: pytest.FixtureRequest) -> Iterator[None]:
    """A cache of its own, and a clock at the beginning of a window."""
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": request.node.name,
        }
    }
    with time_machine.travel(1_800_000_000, tick=True):
        yield


@pytest.fixture
def user() -> User:
    return User.objects.create_superuser("Ada", password=PASSWORD)


def log_in(client: Client, name: str, password: str, address: str = "192.0.2.1") -> int:
    body = {"username": name, "password": password}
    return client.post(LOGIN, body, REMOTE_ADDR=address).status_code


def test_the_sixth_attempt_has_to_wait(client: Client, user: User) -> None:
    for _ in range(5):
        assert log_in(client, "Ada", "wrong") == 200
    answer = client.post(LOGIN, {"username": "Ada", "password": PASSWORD}, REMOTE_ADDR="192.0.2.1")
    assert answer.status_code == 429
    assert 800 < int(answer.headers["Retry-After"]) <= 900
    assert "Try again in 15 minutes." in answer.text
    assert "sessionid" not in answer.cookies


@pytest.mark.parametrize(
    ("seconds", "told"), [(1, "1 minute."), (60, "1 minute."), (61, "2 minutes.")]
)
def test_who_has_to_wait_is_told_how_long(seconds: int, told: str) -> None:
    (message,) = locked_out(seconds).messages
    assert message.endswith(f"Try again in {told}")


def test_it_ends(client: Client, user: User) -> None:
    for _ in range(6):
        log_in(client, "Ada", "wrong")
    with time_machine.travel(time.time() + 901):
        assert log_in(client, "Ada", PASSWORD) == 302


def test_nobody_is_locked_out_from_elsewhere(client: Client, user: User) -> None:
    for _ in range(6):
        log_in(client, "Ada", "wrong")
    assert log_in(client, "Ada", PASSWORD, "192.0.2.2") == 302


def test_a_success_clears_the_count(client: Client, user: User) -> None:
    for _ in range(3):
        for _ in range(4):
            assert log_in(client, "Ada", "wrong") == 200
        assert log_in(client, "Ada", PASSWORD) == 302
        client.logout()


@pytest.mark.parametrize("name", ["Ada", "nobody"])
def test_it_makes_no_difference_whether_there_is_such_a_user(
    client: Client, user: User, name: str
) -> None:
    replies = [
        client.post(LOGIN, {"username": name, "password": "wrong"}, REMOTE_ADDR="192.0.2.1")
        for _ in range(7)
    ]
    assert [reply.status_code for reply in replies] == [200] * 5 + [429] * 2
    assert "Please enter the correct username" in replies[0].text
    assert "too often" in replies[5].text


def test_another_spelling_is_the_same_name(client: Client, user: User) -> None:
    for name in ("Ada", "ada", "ADA", "\uff21da", "aDa"):
        log_in(client, name, "wrong")
    assert log_in(client, "Ada", PASSWORD) == 429


def test_one_address_cannot_try_all_names(client: Client, user: User) -> None:
    for number in range(50):
        assert log_in(client, f"user{number}", "wrong") == 200
    assert log_in(client, "Ada", PASSWORD) == 429


def test_many_who_succeed_do_not_lock_their_address(client: Client, user: User) -> None:
    for _ in range(60):
        assert log_in(client, "Ada", PASSWORD) == 302
        client.logout()


def test_a_network_of_ipv6_is_one_address(client: Client, user: User) -> None:
    for number in range(5):
        log_in(client, "Ada", "wrong", f"2001:db8:1:2::{number}")
    assert log_in(client, "Ada", PASSWORD, "2001:db8:1:2:ffff::1") == 429
    assert log_in(client, "Ada", PASSWORD, "2001:db8:1:3::1") == 302


def test_a_header_of_the_client_is_not_believed(client: Client, user: User) -> None:
    for number in range(5):
        client.post(
            LOGIN,
            {"username": "Ada", "password": "wrong"},
            REMOTE_ADDR="192.0.2.1",
            headers={"x-forwarded-for": f"198.51.100.{number}"},
        )
    assert log_in(client, "Ada", PASSWORD) == 429


def test_all_that_authenticates_a_request_is_covered(user: User) -> None:
    request = RequestFactory().post("/")
    for _ in range(5):
        assert authenticate(request, username="Ada", password="wrong") is None
    assert authenticate(request, username="Ada", password=PASSWORD) is None
    assert request.locked_out_for > 0
    assert authenticate(username="Ada", password=PASSWORD) == user  # a command, not a request


async def test_an_awaited_authentication_is_covered(user: User) -> None:
    request = RequestFactory().post("/")
    for _ in range(5):
        assert await aauthenticate(request, username="Ada", password="wrong") is None
    assert await aauthenticate(request, username="Ada", password=PASSWORD) is None


def test_the_log_names_no_user(
    client: Client, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    # The clock stands still, or the wait is a second shorter on a slow machine.
    stopped = time_machine.travel(1_800_000_000, tick=False)
    with stopped, caplog.at_level(logging.WARNING):
        for _ in range(6):
            log_in(client, "a password in the wrong box", "wrong")
    assert [record.getMessage() for record in caplog.records][:1] == [
        "Locked out for 900 seconds: 192.0.2.1"
    ]
    assert "wrong box" not in caplog.text
    assert "wrong box" not in repr(cache._cache)


def test_the_api_has_no_log_in_of_its_own(client: Client, user: User) -> None:
    for path in ("/api/v1/login/", "/api/v1/auth/", "/api-auth/login/"):
        assert client.post(path, {"username": "Ada", "password": PASSWORD}).status_code == 404
    basic = {"authorization": "Basic QWRhOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ=="}
    assert client.get("/api/v1/projects/", headers=basic).status_code == 401


def test_changing_the_password_is_limited_as_well(client: Client, user: User) -> None:
    client.force_login(user)
    body = {"new_password1": "a new pass phrase", "new_password2": "a new pass phrase"}
    for _ in range(5):
        assert client.post(CHANGE, {**body, "old_password": "wrong"}).status_code == 200
    answer = client.post(CHANGE, {**body, "old_password": PASSWORD})
    assert answer.status_code == 429
    assert "Retry-After" in answer.headers
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_the_password_can_be_changed(client: Client, user: User) -> None:
    client.force_login(user)
    assert "Password change" in client.get(CHANGE).text
    body = {"new_password1": "a new pass phrase", "new_password2": "a new pass phrase"}
    answer = client.post(CHANGE, {**body, "old_password": PASSWORD}, follow=True)
    assert answer.redirect_chain == [("/admin/password_change/done/", 302)]
    user.refresh_from_db()
    assert user.check_password("a new pass phrase")


def test_many_at_once_get_no_more_attempts(settings: Settings) -> None:
    attempts = Attempts("test", limit=5, window=900)
    allowed: list[int] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        allowed.extend(attempts.claim("x") == 0 for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 5


def test_a_limit_shared_over_redis(settings: Settings) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:6379/9",
            # To empty the cache would be to empty the whole database, which others may use.
            "KEY_PREFIX": str(uuid.uuid4()),
        }
    }
    try:
        cache.get("x")
    except (OSError, redis.exceptions.ConnectionError):
        pytest.skip("no Redis on 127.0.0.1:6379")
    attempts = Attempts("test", limit=2, window=900)
    assert [attempts.claim("x") > 0 for _ in range(3)] == [False, False, True]
    attempts.clear("x")
    assert attempts.claim("x") == 0
    attempts.give_back("x")
    attempts.give_back("nobody")
    attempts.clear("x")


def test_a_refusal_hashes_as_much_whether_a_user_exists_or_not(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of production takes some 100 ms, against which a query is nothing: who hashes the
    same number of times with as many iterations answers as late."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    User.objects.create_superuser("Ada", password=PASSWORD)
    User.objects.create_user("Bob", password=PASSWORD, is_active=False)
    hashed: list[int] = []
    encode = PBKDF2PasswordHasher.encode

    def counted(
        hasher: PBKDF2PasswordHasher, password: str, salt: str, iterations: int | None = None
    ) -> str:
        hashed.append(iterations or hasher.iterations)
        return encode(hasher, password, salt, 1)

    monkeypatch.setattr(PBKDF2PasswordHasher, "encode", counted)
    for name in ("Ada", "Bob", "nobody"):
        hashed.clear()
        assert log_in(client, name, "wrong") == 200
        assert hashed == [PBKDF2PasswordHasher.iterations], name
