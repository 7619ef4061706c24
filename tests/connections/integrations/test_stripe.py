"""Against a local server that answers as Stripe's API reference says."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug import Request, Response

from connections.integrations.base import IntegrationError, Sample
from connections.integrations.stripe import Stripe
from tests.connections.factories import CANARY

KEY = {"api_key": f"rk_live_{CANARY}"}
START, END = datetime(2026, 3, 1, 9, 30, tzinfo=UTC), datetime(2026, 3, 3, 12, tzinfo=UTC)
DAYS = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)]


def charge(number, at, amount, currency="usd", status="succeeded", refunded=0):
    return {
        "id": f"ch_{number}",
        "object": "charge",
        "amount": amount,
        "amount_refunded": refunded,
        "created": int(at.timestamp()),
        "currency": currency,
        "status": status,
    }


CHARGES = [
    charge(1, datetime(2026, 3, 3, 11, tzinfo=UTC), 500),
    charge(2, datetime(2026, 3, 3, 10, tzinfo=UTC), 300, "jpy"),
    charge(3, datetime(2026, 3, 1, 23, tzinfo=UTC), 1000, status="failed"),
    charge(4, datetime(2026, 3, 1, 1, tzinfo=UTC), 700, refunded=200),
]


def error(status, kind, message, **headers):
    return Response(
        f'{{"error": {{"type": "{kind}", "message": "{message}"}}}}',
        status,
        headers,
        content_type="application/json",
    )


@pytest.fixture
def stripe(httpserver, allow, monkeypatch):
    allow("127.0.0.1", "localhost")
    monkeypatch.setattr(Stripe, "api_url", httpserver.url_for("").rstrip("/"))

    def charges(request: Request) -> Response:
        if request.headers["Authorization"] != f"Bearer {KEY['api_key']}":
            return error(
                401, "invalid_request_error", f"Invalid API Key provided: {request.headers}"
            )
        after = request.args.get("starting_after")
        left = [
            one
            for one in CHARGES
            if int(request.args["created[gte]"])
            <= one["created"]
            < int(request.args["created[lt]"])
        ]
        if after:
            left = left[[one["id"] for one in left].index(after) + 1 :]
        page = {"object": "list", "data": left[:2], "has_more": len(left) > 2}
        return Response(json.dumps(page), content_type="application/json")

    httpserver.expect_request("/v1/charges").respond_with_handler(charges)
    httpserver.expect_request("/v1/balance").respond_with_json(
        {
            "object": "balance",
            "available": [
                {"amount": 1200, "currency": "usd"},
                {"amount": -50, "currency": "eur"},
                {"amount": 300, "currency": "usd"},
            ],
        }
    )
    return Stripe()


def test_charges_are_summed_by_day_over_all_pages(stripe, httpserver):
    samples = list(stripe.fetch_metrics(KEY, {}, ["charges", "revenue"], START, END))
    assert samples == [
        Sample("charges", DAYS[0], 1),
        Sample("charges", DAYS[1], 0),
        Sample("charges", DAYS[2], 2),
        Sample("revenue:usd", DAYS[2], 500),
        Sample("revenue:jpy", DAYS[2], 300),
        Sample("revenue:usd", DAYS[0], 500),
    ]
    queries = [request.args for request, _ in httpserver.log]
    assert [query.get("starting_after") for query in queries] == [None, "ch_2"]
    assert {query["limit"] for query in queries} == {"100"}


def test_the_balance_is_summed_by_currency(stripe):
    samples = list(stripe.fetch_metrics(KEY, {}, ["balance"], START, END))
    assert samples == [Sample("balance:eur", END, -50), Sample("balance:usd", END, 1500)]


def test_only_what_is_wanted_is_asked_for(stripe, httpserver):
    assert list(stripe.fetch_metrics(KEY, {}, ["unknown"], START, END)) == []
    assert httpserver.log == []
    samples = list(stripe.fetch_metrics(KEY, {}, ["charges"], END, END))
    assert [sample.metric_id for sample in samples] == ["charges"]


def test_a_valid_key_passes_the_check(stripe, httpserver):
    stripe.check(KEY, {})
    (request, _) = httpserver.log[0]
    assert request.headers["Authorization"] == f"Bearer {KEY['api_key']}"


@pytest.mark.parametrize(
    ("reply", "code", "permanent", "tries"),
    [
        (
            error(401, "invalid_request_error", f"Invalid API Key provided: {KEY['api_key']}"),
            "credentials_refused",
            True,
            1,
        ),
        (
            error(403, "invalid_request_error", "The provided key does not have the permission"),
            "credentials_insufficient",
            True,
            1,
        ),
        (error(429, "invalid_request_error", "Too many requests"), "rate_limited", False, 3),
        (
            error(429, "invalid_request_error", "Too many requests", **{"Retry-After": "600"}),
            "rate_limited",
            False,
            1,
        ),
        (error(500, "api_error", "An error occurred"), "service_failing", False, 3),
        (error(404, "invalid_request_error", "Unrecognized URL"), "request_refused", True, 1),
        (Response("<html>", 200), "no_json", False, 1),
    ],
)
def test_errors(httpserver, allow, monkeypatch, reply, code, permanent, tries):
    allow("127.0.0.1", "localhost")
    monkeypatch.setattr(Stripe, "api_url", httpserver.url_for("").rstrip("/"))
    httpserver.expect_request("/v1/balance").respond_with_response(reply)
    with pytest.raises(IntegrationError) as raised:
        Stripe().check(KEY, {})
    assert (raised.value.code, raised.value.permanent) == (code, permanent)
    assert CANARY not in str(raised.value)
    assert len(httpserver.log) == tries


def test_a_passing_error_passes(stripe, httpserver):
    httpserver.clear()
    httpserver.expect_oneshot_request("/v1/balance").respond_with_response(
        error(429, "invalid_request_error", "Too many requests", **{"Retry-After": "1"})
    )
    httpserver.expect_request("/v1/balance").respond_with_json({"available": []})
    stripe.check(KEY, {})
    assert len(httpserver.log) == 2


def test_credentials_of_the_former_product_are_understood():
    assert Stripe.credentials_from({"apiKey": "a", "other": 1}) == {"api_key": "a"}
    assert Stripe.credentials_from({"apiKey": "a", "api_key": "b"}) == {"api_key": "b"}
    assert Stripe.credentials_from({"api_key": None}) == {}
    assert Stripe.credentials_from("text") == {}


def test_long_ranges_have_every_day(stripe):
    samples = list(stripe.fetch_metrics(KEY, {}, ["charges"], END - timedelta(days=30), END))
    assert len([one for one in samples if one.metric_id == "charges"]) == 31
