"""What connections measured."""

from collections.abc import Iterable
from typing import ClassVar

from django.db import connections as databases, models
from django.utils.translation import gettext_lazy as _

from connections.integrations.base import Sample
from connections.models.connection import Connection

BATCH = 500
LONGEST_METRIC_ID = 200


class MetricQuerySet(models.QuerySet["Metric"]):
    def store(self, connection: Connection, samples: Iterable[Sample]) -> int:
        """Write samples, each over what was stored for its metric and moment.

        Returns:
            How many there were.
        """
        rows = {
            (sample.metric_id, sample.at): Metric(
                connection=connection, metric_id=sample.metric_id, at=sample.at, value=sample.value
            )
            for sample in samples
        }
        features = databases[self.db].features
        unique_fields = ["connection", "metric_id", "at"]
        self.bulk_create(
            rows.values(),
            batch_size=BATCH,
            update_conflicts=True,
            update_fields=["value"],
            # MariaDB takes whichever unique index is hit, and no list of them.
            unique_fields=(
                unique_fields if features.supports_update_conflicts_with_target else None
            ),
        )
        return len(rows)


class Metric(models.Model):
    """One value of one metric of a connection at one moment."""

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="metrics")
    metric_id = models.CharField(_("metric"), max_length=LONGEST_METRIC_ID)
    at = models.DateTimeField(_("at"))
    value = models.FloatField(_("value"))

    objects = MetricQuerySet.as_manager()

    class Meta:
        verbose_name = _("metric")
        verbose_name_plural = _("metrics")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["connection", "metric_id", "at"], name="one_value_per_metric_and_moment"
            )
        ]

    def __str__(self) -> str:
        return f"{self.metric_id} {self.at:%Y-%m-%d %H:%M} = {self.value:g}"
