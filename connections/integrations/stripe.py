"""Stripe: what was charged each day, and what is on the account.

API reference: ``/v1/charges`` (a list, newest first, of at most 100 per page, ``has_more`` and
``starting_after``), ``/v1/balance``. Amounts are in the smallest unit of their currency.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from connections.integrations.base import Config, Credentials, Integration, Sample
from connections.integrations.fields import CredentialField
from connections.integrations.http import Api

PAGE = 100
#: 100,000 charges in one sync; an account with more is synced more often than that.
MOST_PAGES = 1000


class Stripe(Integration):
    service = "stripe"
    title = "Stripe"
    credential_fields = (
        CredentialField(
            "api_key",
            "API key",
            "A restricted key (rk_live_...) that may read charges and the balance is enough.",
            required=True,
            legacy="apiKey",
        ),
    )
    # Charges and revenue are those of a day; amounts are by currency, in its smallest unit.
    metrics = ("charges", "revenue", "balance")
    #: Only a test of this class points it elsewhere; no connection can.
    api_url: ClassVar[str] = "https://api.stripe.com"

    def check(self, credentials: Credentials, config: Config) -> None:
        with self._api(credentials, redirects=0) as api:
            api.json("v1/balance")

    def fetch_metrics(
        self,
        credentials: Credentials,
        config: Config,
        metric_ids: Sequence[str],
        start: datetime,
        end: datetime,
    ) -> Iterator[Sample]:
        with self._api(credentials) as api:
            if "balance" in metric_ids:
                yield from self._balance(api, end)
            wanted = {"charges", "revenue"}.intersection(metric_ids)
            if wanted:
                for sample in self._charges(api, midnight(start), end):
                    if sample.metric_id.partition(":")[0] in wanted:
                        yield sample

    def _api(self, credentials: Credentials, **options: Any) -> Api:
        authorization = f"Bearer {credentials['api_key']}"
        return Api(self.api_url, headers={"Authorization": authorization}, **options)

    def _balance(self, api: Api, at: datetime) -> Iterator[Sample]:
        totals: dict[str, int] = defaultdict(int)
        for amount in api.json("v1/balance")["available"]:
            totals[amount["currency"]] += amount["amount"]
        for currency, total in sorted(totals.items()):
            yield Sample(f"balance:{currency}", at, total)

    def _charges(self, api: Api, start: datetime, end: datetime) -> Iterator[Sample]:
        """Whole days from ``start`` on; days without a charge count as 0 charges."""
        counts: dict[datetime, int] = {}
        sums: dict[tuple[datetime, str], int] = defaultdict(int)
        day = start
        while day <= end:
            counts[day] = 0
            day += timedelta(days=1)
        for charge in self._pages(api, start, end):
            if charge["status"] == "succeeded":
                day = midnight(datetime.fromtimestamp(charge["created"], UTC))
                counts[day] = counts.get(day, 0) + 1
                net = charge["amount"] - charge.get("amount_refunded", 0)
                sums[day, charge["currency"]] += net
        for day, count in counts.items():
            yield Sample("charges", day, count)
        for (day, currency), amount in sums.items():
            yield Sample(f"revenue:{currency}", day, amount)

    def _pages(self, api: Api, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
        params: dict[str, str | int] = {
            "limit": PAGE,
            "created[gte]": int(start.timestamp()),
            "created[lt]": int(end.timestamp()),
        }
        for _ in range(MOST_PAGES):
            page = api.json("v1/charges", params)
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            params["starting_after"] = page["data"][-1]["id"]


def midnight(moment: datetime) -> datetime:
    """The beginning of a moment's day, in UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
