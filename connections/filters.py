"""What lists can be narrowed down by."""

from datetime import UTC
from typing import Any, ClassVar

import django_filters  # type: ignore[import-untyped]
from django import forms
from django.core.exceptions import ValidationError

from connections.models import Connection, Metric, Status


class StrictFilterSet(django_filters.FilterSet):  # type: ignore[misc]
    """Refuses a filter without a value, which would otherwise narrow down nothing, silently.

    A text may be empty: every text has an empty part.
    """

    def is_valid(self) -> bool:
        valid: bool = super().is_valid()
        for name, field in self.form.fields.items():
            given = self.data.get(name)
            if given is not None and not given.strip() and type(field) is not forms.CharField:
                text = "Give a value, or leave the filter out."
                self.form.add_error(name, ValidationError(text, code="blank"))
                valid = False
        return valid


class WholeNumberFilter(django_filters.NumberFilter):  # type: ignore[misc]
    field_class = forms.IntegerField


class MomentField(django_filters.fields.IsoDateTimeField):  # type: ignore[misc]
    """A time that is one in UTC as well: not in the year 0 or 10,000 there."""

    def clean(self, value: Any) -> Any:
        moment = super().clean(value)
        try:
            return moment and moment.astimezone(UTC)
        except OverflowError:
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None


class MomentFilter(django_filters.IsoDateTimeFilter):  # type: ignore[misc]
    field_class = MomentField


class ConnectionFilter(StrictFilterSet):
    service = django_filters.CharFilter()
    name = django_filters.CharFilter(lookup_expr="icontains", label="Part of the name")
    status = django_filters.ChoiceFilter(choices=Status.choices)
    health_below = WholeNumberFilter(
        field_name="health_score", lookup_expr="lt", label="Health score below this"
    )
    synced_before = MomentFilter(
        field_name="last_synced_at", lookup_expr="lt", label="Last synced before this"
    )

    class Meta:
        model = Connection
        fields: ClassVar[list[str]] = []


class MetricFilter(StrictFilterSet):
    metric_id = django_filters.CharFilter()
    start = MomentFilter(field_name="at", lookup_expr="gte", label="At or after this")
    end = MomentFilter(field_name="at", lookup_expr="lt", label="Before this")

    class Meta:
        model = Metric
        fields: ClassVar[list[str]] = []
