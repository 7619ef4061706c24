"""What lists can be narrowed down by."""

from typing import ClassVar

import django_filters  # type: ignore[import-untyped]

from connections.models import Connection, Metric, Status


class ConnectionFilter(django_filters.FilterSet):  # type: ignore[misc]
    service = django_filters.CharFilter()
    name = django_filters.CharFilter(lookup_expr="icontains", label="Part of the name")
    status = django_filters.ChoiceFilter(choices=Status.choices)
    health_below = django_filters.NumberFilter(
        field_name="health_score", lookup_expr="lt", label="Health score below this"
    )
    synced_before = django_filters.IsoDateTimeFilter(
        field_name="last_synced_at", lookup_expr="lt", label="Last synced before this"
    )

    class Meta:
        model = Connection
        fields: ClassVar[list[str]] = []


class MetricFilter(django_filters.FilterSet):  # type: ignore[misc]
    metric_id = django_filters.CharFilter()
    start = django_filters.IsoDateTimeFilter(
        field_name="at", lookup_expr="gte", label="At or after this"
    )
    end = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt", label="Before this")

    class Meta:
        model = Metric
        fields: ClassVar[list[str]] = []
