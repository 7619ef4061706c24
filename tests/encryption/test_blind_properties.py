"""Blind indexes through arbitrary sequences of what the ORM and a rotation can do."""

import os
from typing import Any, ClassVar

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    invariant,
    rule,
    run_state_machine_as_test,
)

from encryption.registry import encrypted_columns
from encryption.rotation import Options, Rotation
from encryption.status import column_status
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.matching import expect_indexes
from tests.encryption.test_properties import MARK, OrmMachine, as_json, json_values, texts
from tests.fieldapp.factories import UuidTenantFactory
from tests.fieldapp.models import Watched

pytestmark = pytest.mark.django_db

FIRST_KEY = os.environ["MASTER_ENCRYPTION_KEY"]


class IndexMachine(OrmMachine):
    """All of `OrmMachine`, with keys that change, rotations that are broken off, and lookups."""

    model = Watched
    names = ("tenant", "secret", "data", "host")
    required = "name"
    can_bulk_update: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.keys = [FIRST_KEY, OTHER_KEY]
        self._use_keys()

    def _use_keys(self) -> None:
        primary, fallback = self.keys
        django_settings.ENCRYPTION = {"MASTER_KEY": primary, "MASTER_KEY_FALLBACKS": [fallback]}
        from encryption import conf  # noqa: PLC0415

        conf.reset()

    def make_tenants(self) -> list[Any]:
        return UuidTenantFactory.create_batch(3)

    @rule()
    def swap_the_keys(self) -> None:
        self.keys.reverse()
        self._use_keys()

    @rule(pages=st.integers(0, 4), size=st.integers(1, 3))
    def rotate_and_be_killed(self, pages: int, size: int) -> None:
        """Between two pages; in the middle of one the database takes it back."""
        left = [pages]

        def is_over() -> bool:
            left[0] -= 1
            return left[0] < 0

        for column in encrypted_columns("fieldapp.Watched"):
            options = Options(batch_size=size, should_stop=is_over)
            if Rotation(column, "default", options).run().stopped:
                break
        self.changed = True

    @rule()
    def rotate(self) -> None:
        for column in encrypted_columns("fieldapp.Watched"):
            Rotation(column, "default").run()
            assert column_status(column, "default").stale == 0
        self.changed = True

    @rule(number=OrmMachine.numbers, other=texts)
    def look_up_a_secret(self, number: int, other: str) -> None:
        row = self.rows[self._pick(number).instance.pk]
        tenant = row["tenant"]
        for wanted in (row["secret"], MARK + other):
            if wanted is None:
                continue
            same = {
                pk
                for pk, one in self.rows.items()
                if one["secret"] == wanted and one["tenant"] == tenant
            }
            ours = Watched.objects.filter(tenant=tenant)
            assert set(ours.filter(secret=wanted).values_list("pk", flat=True)) == same
            rest = {pk for pk, one in self.rows.items() if one["tenant"] == tenant} - same
            assert set(ours.exclude(secret=wanted).values_list("pk", flat=True)) == rest

    @rule(number=OrmMachine.numbers, value=json_values)
    def look_up_a_part_of_the_data(self, number: int, value: Any) -> None:
        row = self.rows[self._pick(number).instance.pk]
        held = (row["data"] or {}).get(MARK)
        for wanted in (held, value):
            if wanted is None:
                continue
            found = Watched.objects.filter(tenant=row["tenant"], data__PLAINTEXT=wanted)
            # Text by text: 1 and True are equal for Python, and other values in JSON.
            assert {one.pk for one in found} == {
                pk
                for pk, one in self.rows.items()
                if one["tenant"] == row["tenant"]
                and as_json_sorted((one["data"] or {}).get(MARK)) == as_json_sorted(wanted)
            }

    @invariant()
    def every_index_matches(self) -> None:
        expect_indexes(Watched)


def as_json_sorted(value: Any) -> str:
    if isinstance(value, dict):
        return as_json({key: as_json_sorted(value[key]) for key in sorted(value)})
    if isinstance(value, list):
        return as_json([as_json_sorted(one) for one in value])
    return as_json(value)


@pytest.fixture
def keys_are_put_back(settings: Any) -> Any:
    settings.ENCRYPTION = {"MASTER_KEY": FIRST_KEY}


@pytest.mark.usefixtures("keys_are_put_back")
def test_no_sequence_leaves_an_index_behind() -> None:
    run_state_machine_as_test(
        IndexMachine,
        settings=settings(
            max_examples=int(os.environ.get("BLIND_EXAMPLES", "25")),
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
            phases=[phase for phase in Phase if phase is not Phase.explain],
        ),
    )
