from datetime import timedelta

import pytest
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.views import APIView

from apikeys.throttling import ApiKeyRateThrottle, PersonRateThrottle

from .factories import OPERATOR, ApiKeyFactory

pytestmark = pytest.mark.django_db


class OneAMinute(PersonRateThrottle):
    rate = "1/min"


class Open(APIView):
    permission_classes = (AllowAny,)
    throttle_classes = (OneAMinute, ApiKeyRateThrottle)

    def get(self, request):
        return Response("open")


def call(rf, key=None, user=None):
    request = rf.get("/")
    if key is not None:
        request.META["HTTP_AUTHORIZATION"] = f"Bearer {key.issued_token.plaintext}"
    if user is not None:
        request.user = user
    return Open.as_view()(request)


def test_each_key_has_a_limit_of_its_own(rf, project, settings) -> None:
    settings.API_KEYS_THROTTLE_RATE = "2/hour"
    one, other = ApiKeyFactory(project=project), ApiKeyFactory(project=project)
    assert [call(rf, one).status_code for _ in range(3)] == [200, 200, 429]
    assert call(rf, other).status_code == 200
    assert 3500 < int(call(rf, one)["Retry-After"]) <= 3600


def test_the_limit_of_people_is_not_for_keys(rf, project, settings) -> None:
    settings.API_KEYS_THROTTLE_RATE = None
    one, other = ApiKeyFactory(project=project), ApiKeyFactory(project=project)
    assert {call(rf, key).status_code for key in (one, other, one)} == {200}


def test_the_limit_of_keys_is_not_for_people(rf, user, settings) -> None:
    settings.API_KEYS_THROTTLE_RATE = "1/hour"
    assert [call(rf, user=user).status_code for _ in range(2)] == [200, 429]
    assert [call(rf).status_code for _ in range(2)] == [200, 429]  # by address


def test_a_successor_starts_anew(rf, project, settings) -> None:
    settings.API_KEYS_THROTTLE_RATE = "1/hour"
    key = ApiKeyFactory(project=project)
    successor, successor.issued_token = key.rotate(timedelta(days=1), by=OPERATOR)
    assert [call(rf, key).status_code for _ in range(2)] == [200, 429]
    assert call(rf, successor).status_code == 200
