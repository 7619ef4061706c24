"""Against a local server that answers as GitHub's REST reference says."""

import json
import time
from datetime import UTC, datetime

import pytest
from werkzeug import Request, Response

from connections.integrations.base import IntegrationError, Sample
from connections.integrations.github import GitHub
from tests.connections.factories import CANARY

TOKEN = {"token": f"github_pat_{CANARY}"}
START, END = datetime(2026, 3, 1, 9, 30, tzinfo=UTC), datetime(2026, 3, 2, 12, tzinfo=UTC)


def repository(name, stars):
    return {
        "name": name,
        "stargazers_count": stars,
        "forks_count": 2,
        "open_issues_count": 3,
    }


def commit(date):
    return {"sha": "0" * 40, "commit": {"committer": {"date": date}}}


@pytest.fixture
def config(httpserver, allow):
    allow("127.0.0.1", "localhost")
    return {
        "owner": "acme",
        "repositories": ["shop"],
        "api_url": httpserver.url_for("/api/v3"),
    }


def reply(data, status=200, **headers):
    return Response(json.dumps(data), status, headers, content_type="application/json")


def test_counts_of_chosen_repositories(httpserver, config):
    httpserver.expect_request("/api/v3/repos/acme/shop").respond_with_json(repository("shop", 7))
    ids = ["stars", "forks", "open_issues"]
    assert list(GitHub().fetch_metrics(TOKEN, config, ids, START, END)) == [
        Sample("stars:shop", END, 7),
        Sample("forks:shop", END, 2),
        Sample("open_issues:shop", END, 3),
    ]
    (request, _) = httpserver.log[0]
    assert request.headers["Authorization"] == f"Bearer {TOKEN['token']}"
    assert request.headers["X-GitHub-Api-Version"] == "2022-11-28"


def test_all_repositories_of_an_owner_over_all_pages(httpserver, config):
    def repositories(request: Request) -> Response:
        if request.args.get("page") == "2":
            return reply([repository("site", 1)])
        following = httpserver.url_for("/api/v3/users/acme/repos?per_page=100&page=2")
        last = httpserver.url_for("/api/v3/users/acme/repos?page=2")
        return reply(
            [repository("shop", 7)], Link=f'<{following}>; rel="next", <{last}>; rel="last"'
        )

    httpserver.expect_request("/api/v3/users/acme/repos").respond_with_handler(repositories)
    config = {**config, "repositories": []}
    assert list(GitHub().fetch_metrics(TOKEN, config, ["stars"], START, END)) == [
        Sample("stars:shop", END, 7),
        Sample("stars:site", END, 1),
    ]


def test_a_page_on_another_host_is_not_asked_for(httpserver, config):
    httpserver.expect_request("/api/v3/users/acme/repos").respond_with_response(
        reply([repository("shop", 7)], Link='<https://evil.example/?page=2>; rel="next"')
    )
    with pytest.raises(IntegrationError) as error:
        list(GitHub().fetch_metrics(TOKEN, {**config, "repositories": []}, ["stars"], START, END))
    assert error.value.code == "redirected"


def test_commits_are_counted_by_day(httpserver, config):
    def commits(request: Request) -> Response:
        assert request.args["since"] == "2026-03-01T00:00:00Z"
        assert request.args["until"] == "2026-03-02T12:00:00Z"
        return reply([commit("2026-03-02T01:00:00+02:00"), commit("2026-03-02T10:00:00Z")])

    httpserver.expect_request("/api/v3/repos/acme/shop").respond_with_json(repository("shop", 7))
    httpserver.expect_request("/api/v3/repos/acme/shop/commits").respond_with_handler(commits)
    assert list(GitHub().fetch_metrics(TOKEN, config, ["commits"], START, END)) == [
        Sample("commits:shop", datetime(2026, 3, 1, tzinfo=UTC), 1),
        Sample("commits:shop", datetime(2026, 3, 2, tzinfo=UTC), 1),
    ]


@pytest.mark.parametrize(
    ("repositories", "path"), [(["shop"], "repos/acme/shop"), ([], "users/acme")]
)
def test_the_check_asks_for_as_little_as_it_can(httpserver, config, repositories, path):
    httpserver.expect_request(f"/api/v3/{path}").respond_with_json({})
    GitHub().check(TOKEN, {**config, "repositories": repositories})
    assert len(httpserver.log) == 1


NOW = time.time()


@pytest.mark.parametrize(
    ("answer", "code", "permanent", "tries"),
    [
        (reply({"message": "Bad credentials"}, 401), "credentials_refused", True, 1),
        (reply({"message": "Not Found"}, 404), "not_found", True, 1),
        (reply({"message": "Resource not accessible"}, 403), "credentials_insufficient", True, 1),
        (
            reply({"message": "API rate limit"}, 403, **{"X-RateLimit-Remaining": "0",
                  "X-RateLimit-Reset": str(int(NOW) + 30_000)}),
            "rate_limited", False, 1,
        ),
        (
            reply({"message": "API rate limit"}, 403, **{"X-RateLimit-Remaining": "0",
                  "X-RateLimit-Reset": str(int(NOW))}),
            "rate_limited", False, 3,
        ),
        (reply({"message": "secondary"}, 429, **{"Retry-After": "1"}), "rate_limited", False, 3),
        (reply({"message": "secondary"}, 403, **{"Retry-After": "60"}), "rate_limited", False, 1),
        (reply({"message": "Server Error"}, 502), "service_failing", False, 3),
        (reply({}, 302, Location="https://evil.example/"), "redirected", True, 1),
    ],
)  # fmt: skip
def test_errors(httpserver, config, answer, code, permanent, tries):
    httpserver.expect_request("/api/v3/repos/acme/shop").respond_with_response(answer)
    with pytest.raises(IntegrationError) as error:
        list(GitHub().fetch_metrics(TOKEN, config, ["stars"], START, END))
    assert (error.value.code, error.value.permanent) == (code, permanent)
    assert len(httpserver.log) == tries


def test_the_check_follows_no_redirect(httpserver, config):
    httpserver.expect_request("/api/v3/repos/acme/shop").respond_with_response(
        reply({}, 301, Location="/api/v3/repositories/1")
    )
    httpserver.expect_request("/api/v3/repositories/1").respond_with_json({})
    with pytest.raises(IntegrationError):
        GitHub().check(TOKEN, config)
    assert len(httpserver.log) == 1


def test_without_an_owner_it_says_so():
    with pytest.raises(IntegrationError) as error:
        GitHub().check(TOKEN, {})
    assert error.value.code == "config_incomplete"


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "", "a" * 101, "a?b", "a#b", 5, None])
def test_names_that_would_be_other_paths_are_refused(name):
    (field,) = [one for one in GitHub.config_fields if one.name == "owner"]
    with pytest.raises(ValueError, match=r"\w"):
        field.clean(name)


def test_what_is_imported_becomes_configuration():
    stored = {"token": "t", "owner": "acme", "repos": ["a", "b"]}
    assert GitHub.config_from(stored) == {"owner": "acme", "repositories": ["a", "b"]}
    assert GitHub.config_from({"owner": "a/b", "repos": 5}) == {}
    assert GitHub.credentials_from(stored) == {"token": "t"}
