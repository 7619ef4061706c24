import pytest
from django.contrib.auth.models import User


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create(username="sync")


async def test_an_async_test_sees_the_rows_of_its_fixtures(user: User) -> None:
    assert await User.objects.aget() == user


@pytest.mark.django_db
async def test_and_leaves_none_behind() -> None:
    assert not await User.objects.aexists()
    await User.objects.acreate(username="async")


@pytest.mark.django_db
@pytest.mark.xfail(strict=True, raises=AssertionError)
async def test_and_can_fail() -> None:
    assert await User.objects.aexists()
