"""Against a real Prometheus server: Debian's package `prometheus`."""

import math
import shutil
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug import Response

from connections.integrations.base import IntegrationError
from connections.integrations.fields import named_texts, split_named_texts
from connections.integrations.prometheus import Prometheus, grid
from tests.connections.factories import CANARY
from tests.dashtray.server import free_port

#: bcrypt of the password below, as Prometheus's web configuration asks for it.
PASSWORD = "a password for this test"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prometheus that scrapes itself every second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.fail("Prometheus is not installed: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "- job_name: itself\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
    )
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/v1/query?query=up==1", b'"value"')
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(120)


def wait_for(url, text):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                if text in reply.read():
                    return
        except OSError:
            pass
        time.sleep(0.25)
    pytest.fail("Prometheus did not start")


@pytest.fixture
def config(server, allow):
    allow("127.0.0.1")
    return {"base_url": server, "queries": {"up": "sum(up)", "targets": "vector(3)"}}


def window():
    end = datetime.now(UTC) + timedelta(minutes=1)
    return end - timedelta(minutes=10), end


def test_a_server_passes_the_check(config):
    Prometheus().check({}, config)


def test_queries_become_metrics(config):
    samples = list(Prometheus().fetch_metrics({}, config, ["targets"], *window()))
    assert {sample.metric_id for sample in samples} == {"targets"}
    assert {sample.value for sample in samples} == {3.0}
    assert len(samples) in {10, 11}
    assert all(sample.at.second == 0 for sample in samples)


def test_what_the_server_scraped_is_found(config):
    # The server runs for seconds and a step is a minute long, so the query looks ahead by one.
    queries = {"up": 'max_over_time(up{job="itself"}[2m] offset -1m)'}
    end = datetime.now(UTC)
    samples = Prometheus().fetch_metrics(
        {}, {**config, "queries": queries}, ["up"], end - timedelta(minutes=2), end
    )
    assert {sample.value for sample in samples} == {1.0}


def test_several_series_are_told_apart_by_their_labels(config):
    queries = {
        "x": 'label_replace(vector(1), "a", "b", "", "") '
        'or label_replace(vector(2), "c", "d", "", "")'
    }
    samples = list(Prometheus().fetch_metrics({}, {**config, "queries": queries}, ["x"], *window()))
    assert {(sample.metric_id, sample.value) for sample in samples} == {
        ("x:a=b", 1.0),
        ("x:c=d", 2.0),
    }


def test_values_that_are_no_numbers_are_left_out(config):
    queries = {"nan": "vector(NaN)", "inf": "vector(1)/0"}
    assert (
        list(
            Prometheus().fetch_metrics(
                {}, {**config, "queries": queries}, ["nan", "inf"], *window()
            )
        )
        == []
    )


def test_a_month_is_fetched_in_few_points(config):
    end = datetime.now(UTC)
    samples = list(
        Prometheus().fetch_metrics({}, config, ["targets"], end - timedelta(days=30), end)
    )
    assert 500 <= len(samples) <= 1001


def test_a_wrong_query_is_told_as_one(config):
    with pytest.raises(IntegrationError) as error:
        list(
            Prometheus().fetch_metrics({}, {**config, "queries": {"x": "sum(("}}, ["x"], *window())
        )
    assert (error.value.code, error.value.permanent) == ("query_refused", True)


def test_something_else_at_the_url_is_told(config):
    with pytest.raises(IntegrationError) as error:
        Prometheus().check({}, {**config, "base_url": f"{config['base_url']}/nothing"})
    assert error.value.code == "request_refused"


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ({"bearer_token": CANARY}, f"Bearer {CANARY}"),
        ({"username": "u", "password": "p\u00e9"}, "Basic dTpww6k="),
        ({"username": "u"}, "Basic dTo="),
        ({}, None),
    ],
)
def test_credentials(httpserver, allow, credentials, header):
    allow("127.0.0.1", "localhost")
    httpserver.expect_request("/prom/api/v1/query").respond_with_json({"data": {"result": []}})
    Prometheus().check(credentials, {"base_url": httpserver.url_for("/prom")})
    (request, _) = httpserver.log[0]
    assert request.headers.get("Authorization") == header


def test_json_of_another_service_is_told(httpserver, allow):
    allow("127.0.0.1", "localhost")
    for document in ('{"hello": 1}', "[]", "5"):
        httpserver.expect_oneshot_request("/api/v1/query").respond_with_response(Response(document))
        with pytest.raises(IntegrationError) as error:
            Prometheus().check({}, {"base_url": httpserver.url_for("")})
        assert error.value.code == "no_prometheus"


def test_the_grid_is_the_same_for_a_range_that_is_fetched_again():
    end = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
    first, last, step = grid(end - timedelta(days=30), end)
    again, _, same = grid(end - timedelta(days=30, minutes=-1), end)
    assert step == same
    assert first % step == last % step == again % step == 0
    assert (last - first) / step <= 1000
    assert math.isclose(last, end.timestamp(), abs_tol=step)


@pytest.mark.parametrize(
    "value", ["up = 1", {"Up": "1"}, {"a b": "1"}, {"a": 1}, ["a"], {"": "x"}, {"a": " "}, 5]
)
def test_queries_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match=r"\w"):
        named_texts(value)


def test_lines_are_queries():
    typed = "up = sum(up)\n\nload=a == b\n"
    assert named_texts(split_named_texts(typed)) == {"up": "sum(up)", "load": "a == b"}
    with pytest.raises(ValueError, match="lines"):
        split_named_texts("up")
