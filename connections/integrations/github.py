"""GitHub: what happens in an owner's repositories.

API reference: ``/repos/{owner}/{repo}``, ``/repos/{owner}/{repo}/commits`` (pages of at most 100,
the next one in a ``Link`` header), ``/user/repos``; rate limits are 403 or 429 with
``Retry-After``, or with ``X-RateLimit-Remaining: 0`` and the time in ``X-RateLimit-Reset``.
"""

import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx

from connections.integrations.base import (
    Config,
    Credentials,
    Integration,
    IntegrationError,
    Sample,
)
from connections.integrations.fields import (
    NAMES,
    URL,
    ConfigField,
    CredentialField,
    names,
    split_names,
    text,
    url,
)
from connections.integrations.http import Api, PassingError, retry_after

#: Of the metrics that a repository's own document holds, its keys there.
COUNTS = {"stars": "stargazers_count", "forks": "forks_count", "open_issues": "open_issues_count"}
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
OWN_NAME = {"type": "string", "pattern": f"^{NAME.pattern}$"}
MOST_PAGES = 100


def _name(value: Any) -> str:
    name = text(value)
    if not NAME.fullmatch(name) or name in {".", ".."}:
        raise ValueError("Enter a name as it stands in a URL of GitHub.")
    return name


def _names(value: Any) -> list[str]:
    return [_name(name) for name in names(value)]


class GitHub(Integration):
    service = "github"
    title = "GitHub"
    config_fields = (
        ConfigField(
            "owner",
            "Owner",
            _name,
            schema=OWN_NAME,
            help_text="A user or an organisation.",
            required=True,
            legacy="owner",
        ),
        ConfigField(
            "repositories",
            "Repositories",
            _names,
            split_names,
            {**NAMES, "items": OWN_NAME},
            "Names without the owner, with spaces or commas between them; none for all of them.",
            default=(),
            legacy="repos",
        ),
        ConfigField(
            "api_url",
            "API URL",
            url,
            schema=URL,
            help_text="For GitHub Enterprise Server: https://HOST/api/v3.",
            default="https://api.github.com",
            destination=True,
        ),
    )
    credential_fields = (
        CredentialField(
            "token",
            "Access token",
            "A fine-grained token that may read the repositories' metadata and contents.",
            required=True,
            legacy="token",
        ),
    )
    # Each by repository; open issues hold pull requests too, commits are those of a day.
    metrics = (*COUNTS, "commits")

    def check(self, credentials: Credentials, config: Config) -> None:
        owner = self._owner(config)
        repositories = self.option(config, "repositories")
        with self._api(credentials, config, redirects=0) as api:
            if repositories:
                api.json(f"repos/{owner}/{quote(repositories[0])}")
            else:
                api.json(f"users/{owner}")

    def fetch_metrics(
        self,
        credentials: Credentials,
        config: Config,
        metric_ids: Sequence[str],
        start: datetime,
        end: datetime,
    ) -> Iterator[Sample]:
        owner = self._owner(config)
        counts = {name: key for name, key in COUNTS.items() if name in metric_ids}
        with self._api(credentials, config) as api:
            for name, document in self._repositories(api, owner, config):
                for metric_id, key in counts.items():
                    yield Sample(f"{metric_id}:{name}", end, document[key])
                if "commits" in metric_ids:
                    yield from self._commits(api, f"repos/{owner}/{quote(name)}", name, start, end)

    def _owner(self, config: Config) -> str:
        owner = config.get("owner")
        if not owner:
            raise IntegrationError("Enter the owner.", "config_incomplete", permanent=True)
        return quote(owner)

    def _api(self, credentials: Credentials, config: Config, **options: Any) -> Api:
        headers = {
            "Authorization": f"Bearer {credentials['token']}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        base_url = self.option(config, "api_url")
        return Api(base_url, headers=headers, explain=_explain, **options)

    def _repositories(self, api: Api, owner: str, config: Config) -> Iterator[tuple[str, Any]]:
        chosen = self.option(config, "repositories")
        if chosen:
            for name in chosen:
                yield name, api.json(f"repos/{owner}/{quote(name)}")
            return
        for document in _pages(api, f"users/{owner}/repos", {"per_page": 100}):
            yield document["name"], document

    def _commits(
        self, api: Api, path: str, name: str, start: datetime, end: datetime
    ) -> Iterator[Sample]:
        day = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        days: dict[datetime, int] = {}
        params = {"per_page": 100, "since": _iso(day), "until": _iso(end)}
        while day <= end:
            days[day] = 0
            day += timedelta(days=1)
        for commit in _pages(api, f"{path}/commits", params):
            at = datetime.fromisoformat(commit["commit"]["committer"]["date"]).astimezone(UTC)
            day = at.replace(hour=0, minute=0, second=0, microsecond=0)
            days[day] = days.get(day, 0) + 1
        for day, count in days.items():
            yield Sample(f"commits:{name}", day, count)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pages(api: Api, path: str, params: dict[str, Any] | None) -> Iterator[Any]:
    for _ in range(MOST_PAGES):
        reply = api.get(path, params)
        yield from api.parsed(reply)
        following = reply.links.get("next", {}).get("url")
        if not following:
            return
        path, params = following, None


def _explain(reply: httpx.Response) -> IntegrationError | None:
    """GitHub's own ways of saying "too often", "not found" and "empty"."""
    limited = reply.status_code in {httpx.codes.FORBIDDEN, httpx.codes.TOO_MANY_REQUESTS}
    after = retry_after(reply)
    if limited and after is None and reply.headers.get("X-RateLimit-Remaining") == "0":
        reset = reply.headers.get("X-RateLimit-Reset", "")
        after = max(0.0, float(reset) - time.time()) if reset.isdecimal() else None
    if limited and (after is not None or reply.status_code == httpx.codes.TOO_MANY_REQUESTS):
        return PassingError("GitHub says that it is asked too often.", "rate_limited", after)
    if reply.status_code == httpx.codes.NOT_FOUND:
        return IntegrationError(
            "GitHub knows no such owner or repository, or hides it from this token.",
            "not_found",
            permanent=True,
        )
    return None
