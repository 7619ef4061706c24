"""Requests to a service: what the log tells of one that has to be asked again."""

import logging

import pytest
from werkzeug import Response

from connections.integrations.base import IntegrationError
from connections.integrations.http import Api
from tests.connections.factories import CANARY

LOGGER = "connections.integrations.http"


@pytest.fixture
def base_url(httpserver, allow):
    allow("127.0.0.1")
    return f"http://127.0.0.1:{httpserver.port}"


def test_the_log_names_the_host_that_is_asked_again(httpserver, base_url, caplog):
    httpserver.expect_ordered_request(f"/{CANARY}").respond_with_data("", 503)
    httpserver.expect_ordered_request(f"/{CANARY}").respond_with_data("fine")
    headers = {"Authorization": f"Bearer {CANARY}"}
    with caplog.at_level(logging.DEBUG), Api(base_url, headers=headers) as api:
        assert api.get(CANARY, {"query": CANARY}).text == "fine"
    lines = [record for record in caplog.records if record.name == LOGGER]
    assert [line.getMessage() for line in lines] == [
        f"127.0.0.1:{httpserver.port} failed for now (attempt 1): service_failing"
    ]
    assert CANARY not in repr([vars(line) for line in lines])


def test_what_asking_again_does_not_mend_is_no_failure_for_now(httpserver, base_url, caplog):
    httpserver.expect_request("/").respond_with_response(Response(status=403))
    with Api(base_url) as api, pytest.raises(IntegrationError):
        api.get("")
    assert LOGGER not in {record.name for record in caplog.records}
