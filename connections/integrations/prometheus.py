"""Prometheus: the results of queries, over its HTTP API.

API reference: ``/api/v1/query`` and ``/api/v1/query_range``; an error is a JSON document with
``errorType``. A range of more than 11,000 points per series is refused by the server.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx

from connections.integrations.base import (
    Config,
    Credentials,
    Integration,
    IntegrationError,
    Sample,
)
from connections.integrations.fields import (
    NAMED_TEXTS,
    URL,
    ConfigField,
    CredentialField,
    named_texts,
    split_named_texts,
    url,
)
from connections.integrations.http import Api

SMALLEST_STEP = 60
MOST_POINTS = 1000
#: With a name of up to 60 characters before them and a digest after them, within the 200 of an id.
LONGEST_LABELS = 120


class Prometheus(Integration):
    service = "prometheus"
    title = "Prometheus"
    config_fields = (
        ConfigField(
            "base_url",
            "URL",
            url,
            schema=URL,
            help_text="Of the server, without /api/v1.",
            required=True,
            destination=True,
        ),
        ConfigField(
            "queries",
            "Queries",
            named_texts,
            split_named_texts,
            NAMED_TEXTS,
            "Lines of: name = query. Each name becomes a metric: up = sum(up)",
            default={},
        ),
    )
    credential_fields = (
        CredentialField("username", "User name", "For HTTP Basic.", ascii_only=False),
        CredentialField("password", "Password", "For HTTP Basic.", ascii_only=False),
        CredentialField("bearer_token", "Token", "Instead of a user name and a password."),
    )

    def metric_ids(self, config: Config) -> tuple[str, ...]:
        return tuple(self.option(config, "queries"))

    def check(self, credentials: Credentials, config: Config) -> None:
        with self._api(credentials, config, redirects=0) as api:
            self._result(api, "api/v1/query", {"query": "vector(1)"})

    def fetch_metrics(
        self,
        credentials: Credentials,
        config: Config,
        metric_ids: Sequence[str],
        start: datetime,
        end: datetime,
    ) -> Iterator[Sample]:
        first, last, step = grid(start, end)
        with self._api(credentials, config) as api:
            for name, query in self.option(config, "queries").items():
                if name not in metric_ids:
                    continue
                params = {"query": query, "start": first, "end": last, "step": step}
                yield from self._samples(name, self._result(api, "api/v1/query_range", params))

    def _api(self, credentials: Credentials, config: Config, **options: Any) -> Api:
        base_url = config.get("base_url")
        if not base_url:
            raise IntegrationError("Enter the URL.", "config_incomplete", permanent=True)
        headers, auth = {}, None
        if "bearer_token" in credentials:
            headers["Authorization"] = f"Bearer {credentials['bearer_token']}"
        elif "username" in credentials:
            auth = (credentials["username"], credentials.get("password", ""))
        return Api(base_url, headers=headers, auth=auth, explain=_explain, **options)

    def _result(self, api: Api, path: str, params: dict[str, Any]) -> Any:
        document = api.json(path, params)
        try:
            return document["data"]["result"]
        except (KeyError, TypeError):
            pass
        raise IntegrationError(
            "This is not the API of a Prometheus server. See whether the URL is right.",
            "no_prometheus",
            permanent=True,
        )

    def _samples(self, name: str, result: Any) -> Iterator[Sample]:
        single = len(result) == 1
        for series in result:
            metric_id = name if single else f"{name}:{_labels(series['metric'])}"
            for at, text in series["values"]:
                value = float(text)
                if math.isfinite(value):
                    yield Sample(metric_id, datetime.fromtimestamp(at, UTC), value)


def grid(start: datetime, end: datetime) -> tuple[int, int, int]:
    """First and last moment (Unix time) and step (seconds) of a range of up to 1,000 points.

    The moments are multiples of the step, so that a range that is fetched again falls on the same
    ones.
    """
    seconds = end.timestamp() - start.timestamp()
    step = SMALLEST_STEP
    while seconds / step > MOST_POINTS:
        step *= 2
    return math.ceil(start.timestamp() / step) * step, int(end.timestamp() // step * step), step


def _labels(labels: dict[str, str]) -> str:
    """The labels of a series as a short text of their own."""
    text = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    if len(text) <= LONGEST_LABELS:
        return text
    return f"{text[:LONGEST_LABELS]}~{sha256(text.encode()).hexdigest()[:16]}"


def _explain(reply: httpx.Response) -> IntegrationError | None:
    if reply.status_code in {httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY}:
        return IntegrationError(
            "Prometheus refuses a query. See whether the queries are right.",
            "query_refused",
            permanent=True,
        )
    return None
