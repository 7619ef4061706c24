"""The life cycle of a key, below any face of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apikeys.models import Actor, ApiKey, ApiKeyEvent, ApiKeyStateError

from .factories import OPERATOR, ApiKeyFactory, ProjectFactory, UserFactory, issued

DAY = timedelta(days=1)


@pytest.mark.django_db
class TestIssue:
    def test_what_is_stored_is_not_the_key(self, project) -> None:
        key, token = issued(project=project)
        secret = token.plaintext[len(token.prefix) :]
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM apikeys_apikey")
            assert secret not in str(cursor.fetchall())
        assert secret not in f"{key!r} {key} {vars(key) | {'issued_token': None}}"

    @pytest.mark.parametrize(
        "restriction",
        [
            {"name": ""},
            {"scopes": []},
            {"scopes": ["*"]},
            {"allowed_networks": ["10.0.0.1/8"]},
            {"expires_at": timezone.now() - DAY},
        ],
    )
    def test_no_way_leads_around_a_restriction(self, project, restriction) -> None:
        with pytest.raises(ValidationError):
            ApiKeyFactory(project=project, **restriction)
        assert not ApiKey.objects.exists()
        assert not ApiKeyEvent.objects.exists()

    def test_two_keys_never_share_a_hash(self, key) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            ApiKey.objects.create(project=key.project, name="copy", key_hash=key.key_hash)

    def test_scopes_are_each_kept_once_in_their_order(self, project) -> None:
        key = ApiKeyFactory(
            project=project, scopes=["metrics:read", "connections:read", "metrics:read"]
        )
        assert key.scopes == ["connections:read", "metrics:read"]


@pytest.mark.django_db
class TestByHash:
    def test_it_finds_what_get_finds(self, project) -> None:
        keys = [
            ApiKeyFactory(project=project),
            ApiKeyFactory(
                project=project,
                expires_at=timezone.now() + DAY,
                allowed_networks=["192.0.2.0/24"],
                by=Actor.of_user(project.owner),
            ),
        ]
        for key in keys:
            with CaptureQueriesContext(connection) as queries:
                found = ApiKey.objects.by_hash(key.key_hash)
                expected = {field.attname for field in ApiKey._meta.concrete_fields}
                assert expected <= vars(found).keys()
            assert len(queries) == 1
            for name in expected:
                assert getattr(found, name) == getattr(ApiKey.objects.get(pk=key.pk), name)

    def test_it_finds_nothing_else(self, key) -> None:
        assert ApiKey.objects.by_hash("0" * 64) is None
        assert ApiKey.objects.by_hash("") is None


@pytest.mark.django_db
class TestRotate:
    def test_the_overlap_never_extends_the_old_key(self, project) -> None:
        soon = timezone.now() + timedelta(hours=1)
        key = ApiKeyFactory(project=project, expires_at=soon)
        key.rotate(7 * DAY, by=OPERATOR)
        key.refresh_from_db()
        assert key.expires_at == soon

    def test_the_overlap_shortens_the_old_key(self, project) -> None:
        key = ApiKeyFactory(project=project, expires_at=timezone.now() + 30 * DAY)
        before = timezone.now()
        key.rotate(DAY, by=OPERATOR)
        key.refresh_from_db()
        assert before + DAY <= key.expires_at <= timezone.now() + DAY

    @pytest.mark.parametrize("overlap", [-timedelta(seconds=1), 7 * DAY + timedelta(seconds=1)])
    def test_the_overlap_is_0_to_7_days(self, key, overlap: timedelta) -> None:
        with pytest.raises(ValidationError):
            key.rotate(overlap, by=OPERATOR)
        assert ApiKey.objects.count() == 1

    def test_the_successor_lives_as_long_as_its_predecessor_did(self, project) -> None:
        key = ApiKeyFactory(project=project, expires_at=timezone.now() + 30 * DAY)
        ApiKey.objects.update(
            created_at=key.created_at - 29 * DAY, expires_at=key.expires_at - 29 * DAY
        )
        key.refresh_from_db()
        successor, _token = key.rotate(DAY, by=OPERATOR)
        lifetime = successor.expires_at - successor.created_at
        assert abs(lifetime - 30 * DAY) < timedelta(minutes=1)

    @pytest.mark.parametrize("lifetime", [None, 30 * DAY], ids=str)
    def test_the_successor_lives_no_longer_than_the_maximum(
        self, project, settings, lifetime
    ) -> None:
        key = ApiKeyFactory(project=project, expires_at=lifetime and timezone.now() + lifetime)
        settings.API_KEYS_MAXIMUM_LIFETIME = 10 * DAY
        successor, _token = key.rotate(DAY, by=OPERATOR)
        assert successor.expires_at <= timezone.now() + 10 * DAY

    def test_the_successor_may_do_what_its_predecessor_could(self, project) -> None:
        key = ApiKeyFactory(
            project=project,
            kind="test",
            scopes=["connections:read"],
            allowed_networks=["192.0.2.0/24"],
        )
        successor, token = key.rotate(DAY, by=OPERATOR)
        for name in ("project_id", "name", "kind", "scopes", "allowed_networks"):
            assert getattr(successor, name) == getattr(key, name)
        assert token.plaintext.startswith("pp_test_")

    def test_an_imported_key_gets_a_successor_of_our_form(self, key) -> None:
        ApiKey.objects.update(key_prefix="theirs")
        key.refresh_from_db()
        _successor, token = key.rotate(DAY, by=OPERATOR)
        assert token.plaintext.startswith("pp_live_")

    def test_an_expired_key_is_not_rotated(self, key) -> None:
        ApiKey.objects.update(expires_at=timezone.now())
        with pytest.raises(ApiKeyStateError) as caught:
            key.rotate(DAY, by=OPERATOR)
        assert caught.value.code == "api_key_expired"

    def test_a_stale_instance_does_not_hide_that_the_key_has_ended(self, key) -> None:
        ApiKey.objects.get().revoke(by=OPERATOR)
        assert key.revoked_at is None
        with pytest.raises(ApiKeyStateError):
            key.rotate(DAY, by=OPERATOR)

    def test_the_database_itself_refuses_a_second_successor(self, key) -> None:
        key.rotate(DAY, by=OPERATOR)
        with pytest.raises(IntegrityError), transaction.atomic():
            ApiKeyFactory(project=key.project, replaces=key)


@pytest.mark.django_db
class TestRecord:
    def test_an_event_is_not_rewritten(self, key) -> None:
        event = ApiKeyEvent.objects.get()
        with pytest.raises(TypeError):
            event.save()

    def test_it_outlives_the_key_the_project_and_the_user(self) -> None:
        user, project = UserFactory(), ProjectFactory()
        by = Actor.of_user(user)
        key = ApiKeyFactory(project=project, by=by)
        assert key.created_by == user
        user.delete()
        key.refresh_from_db()
        assert key.created_by is None
        project.delete()
        assert not ApiKey.objects.exists()
        created, deleted = ApiKeyEvent.objects.order_by("pk")
        assert (created.actor, created.project_id) == (by.name, key.project_id)
        assert (deleted.actor, deleted.project_id) == ("unknown", key.project_id)


# -- what happens when something breaks -----------------------------------------------------------


class BrokenError(Exception):
    pass


@contextmanager
def breaking_at(statement: int) -> Iterator[Callable[[], int]]:
    """Let the connection break before its n-th statement, as when the process is killed."""
    seen = 0

    def count(execute: Callable[..., Any], *args: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == statement:
            raise BrokenError
        return execute(*args)

    with connection.execute_wrapper(count):
        yield lambda: seen


def test_a_crash_between_any_two_steps_leaves_a_working_key(transactional_db, bearer) -> None:
    for step in range(1, 50):
        key, token = issued(expires_at=timezone.now() + DAY)
        before = ApiKey.objects.values().get(pk=key.pk)
        with breaking_at(step) as seen:
            try:
                key.rotate(timedelta(), by=OPERATOR)
            except BrokenError:
                pass
            finished = seen() < step
        if finished:
            break
        assert ApiKey.objects.values().get(pk=key.pk) == before
        assert not ApiKey.objects.filter(replaces=key).exists()
        assert not ApiKeyEvent.objects.filter(kind="rotated").exists()
        answer = bearer(token.plaintext).get(f"/api/v1/projects/{key.project_id}/")
        assert answer.status_code == 200
    assert step > 4, "the rotation was never interrupted"
    assert ApiKey.objects.filter(replaces=key).count() == 1


def in_threads(number: int, work: Callable[[], Any]) -> list[Any]:
    """Run work in threads that start at once; returns what each returned or raised."""
    barrier, results = threading.Barrier(number), []

    def run() -> None:
        barrier.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001  # it is what the test is about
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("overlap", [timedelta(), DAY])
def test_of_ten_rotations_at_once_one_succeeds(transactional_db, overlap, bearer) -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        pytest.skip("the threads would share one connection")
    key = ApiKeyFactory()
    results = in_threads(10, lambda: ApiKey.objects.get(pk=key.pk).rotate(overlap, by=OPERATOR))
    won = [result for result in results if isinstance(result, tuple)]
    lost = [result for result in results if not isinstance(result, tuple)]
    assert len(won) == 1, results
    assert [type(error) for error in lost] == [ApiKeyStateError] * 9, results
    assert ApiKey.objects.filter(replaces=key).get() == won[0][0]
    assert ApiKey.objects.count() == 2
    assert ApiKeyEvent.objects.filter(kind="rotated").count() == 1
    url = f"/api/v1/projects/{key.project_id}/"
    assert bearer(won[0][1].plaintext).get(url).status_code == 200
    assert bearer(key.issued_token.plaintext).get(url).status_code == (200 if overlap else 401)


def test_a_key_that_is_revoked_while_it_is_rotated_ends(transactional_db) -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        pytest.skip("the threads would share one connection")
    key = ApiKeyFactory()
    turns = iter([lambda k: k.rotate(DAY, by=OPERATOR), lambda k: k.revoke(by=OPERATOR)])
    in_threads(2, lambda: next(turns)(ApiKey.objects.get(pk=key.pk)))
    key.refresh_from_db()
    assert key.status == "revoked"


def test_revoking_at_once_is_recorded_once(transactional_db) -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        pytest.skip("the threads would share one connection")
    key = ApiKeyFactory()
    results = in_threads(5, lambda: ApiKey.objects.get(pk=key.pk).revoke(by=OPERATOR))
    assert sorted(results) == [False] * 4 + [True]
    assert ApiKeyEvent.objects.filter(kind="revoked").count() == 1
