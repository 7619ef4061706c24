"""Whatever stands in the Authorization header, the answer is 401."""

import random

import pytest
from django.db import connection
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from apikeys import tokens
from apikeys.authentication import ApiKeyAuthentication
from projects.permissions import Authenticated

ALPHABET = tokens.ALPHABET + "_- =.,;\x00\t\r\n\x7f\x80\xff"


class Closed(APIView):
    authentication_classes = (ApiKeyAuthentication,)
    permission_classes = (Authenticated,)
    throttle_classes = ()
    required_scopes: dict[str, str] = {}

    def get(self, request):
        return Response("let in")


def random_bytes(chance: random.Random) -> str:
    # Servers hand the bytes of a header on as Latin-1 (PEP 3333).
    return chance.randbytes(chance.randrange(200)).decode("latin-1")


def random_text(chance: random.Random) -> str:
    return "".join(chr(chance.randrange(0x11_0000)) for _ in range(chance.randrange(60)))


def bearer_and_bytes(chance: random.Random) -> str:
    return chance.choice(["Bearer ", "bearer ", "BEARER\t", "Bearer"]) + random_bytes(chance)


def random_key(chance: random.Random) -> str:
    body = f"pp_{chance.choice(tokens.KINDS)}_" + "".join(chance.choices(tokens.ALPHABET, k=61))
    body = body[:20] + "_" + body[21:64]
    return body + tokens.checksum(body)


def near_key(chance: random.Random) -> str:
    """A key with one to three characters changed, dropped or added."""
    text = random_key(chance)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(text))
        new = chance.choice(ALPHABET)
        text = text[:place] + chance.choice([new, "", new + text[place]]) + text[place + 1 :]
    return f"Bearer {text}"


def wrong_checksum(chance: random.Random) -> str:
    text = random_key(chance)
    return f"Bearer {text[:-6]}{''.join(chance.choices(tokens.ALPHABET, k=6))}"


def unknown_key(chance: random.Random) -> str:
    return f"Bearer {random_key(chance)}"


def long(chance: random.Random) -> str:
    return "Bearer " + chance.choice(["a", "\x00", "\xff", "pp_live_"]) * chance.randrange(
        500, 2000
    )


KINDS = [random_bytes, random_text, bearer_and_bytes, near_key, wrong_checksum, unknown_key, long]


@pytest.mark.django_db
def test_a_hundred_thousand_headers_are_401_and_only_keys_cost_a_query() -> None:
    # A server that answers over the network has no part in this but for the time it takes.
    number = 100_000 if connection.vendor == "sqlite" else 10_000
    chance = random.Random(20260711)
    view, request = Closed.as_view(), APIRequestFactory().get("/")
    queries: list[str] = []

    def note(execute, sql, params, *rest):
        queries.append(sql)
        return execute(sql, params, *rest)

    headers = (chance.choice(KINDS)(chance) for _ in range(number - 20))
    extreme = (f"Bearer {character * 1_000_000}" for character in "a\x00\xff \n_é€😀\ud800" * 2)
    counted, keys = 0, 0
    with connection.execute_wrapper(note):
        for header in (*extreme, *headers):
            request.META["HTTP_AUTHORIZATION"] = header
            queries.clear()
            response = view(request)
            assert response.status_code == 401, ascii(header[:600])
            assert response["WWW-Authenticate"] == "Bearer"
            is_key = header[:7].lower() == "bearer " and tokens.is_valid(header[7:])
            assert len(queries) == is_key, ascii(header[:600])
            counted += 1
            keys += is_key
    assert counted == number
    assert keys > number / 10
