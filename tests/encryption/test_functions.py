"""What each of Django's functions does with an encrypted column: it is refused, or picks one of
the ciphertexts as it is."""

from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, models
from django.db.models import (
    Avg,
    BooleanField,
    Case,
    CharField,
    Count,
    Exists,
    ExpressionWrapper,
    F,
    Func,
    IntegerField,
    Max,
    Min,
    OuterRef,
    Q,
    StdDev,
    Subquery,
    Sum,
    TextField,
    Value,
    Variance,
    When,
    Window,
    functions,
)
from django.db.models.functions import Cast, Coalesce, Length, Lower, Upper

from encryption.descriptors import Ciphertext
from tests.encryption.database import refused, stored
from tests.fieldapp.factories import NoteFactory
from tests.fieldapp.models import Holder, Note, Plain, Tenant

pytestmark = pytest.mark.django_db

WAY_OUT = r"fieldapp\.Note\.(secret|data) is encrypted.*a function.*in Python"


@pytest.fixture(autouse=True)
def note(tenant: Tenant) -> Note:
    note = NoteFactory(tenant=tenant, secret="s", data=[1], note="n")
    Holder.objects.create(note=note)
    return note


def _window(function: Any) -> Window:
    return Window(function, order_by="pk")


#: One of the values of the column, whichever that is.
PICKING: dict[str, Any] = {
    "Coalesce": lambda name: Coalesce(name, name),
    "FirstValue": lambda name: _window(functions.FirstValue(name)),
    "LastValue": lambda name: _window(functions.LastValue(name)),
    "NthValue": lambda name: _window(functions.NthValue(name, 1)),
    "Lag": lambda name: Coalesce(_window(functions.Lag(name)), F(name)),
    "Lead": lambda name: Coalesce(_window(functions.Lead(name)), F(name)),
    # and what is no function of that module
    "F": F,
    "Max": Max,
    "Min": Min,
    "Max of a window": lambda name: _window(Max(name)),
    "Max of some": lambda name: Max(name, filter=Q(note="n")),
    "Case": lambda name: Case(When(note="n", then=F(name))),
    "Case on NULL": lambda name: Case(When(**{f"{name}__isnull": False}, then=F(name))),
    "Subquery": lambda name: Subquery(Note.objects.values(name)[:1]),
}
if hasattr(models, "AnyValue"):  # newer Django
    PICKING["AnyValue"] = models.AnyValue

#: They take no column.
WITHOUT = {"Now", "Pi", "Random", "CumeDist", "DenseRank", "Ntile", "PercentRank", "Rank"}
WITHOUT |= {"RowNumber", "UUID4", "UUID7"}  # the last two in newer Django

#: Those that take more than the column; any other is called with it alone.
ARGUMENTS: dict[str, Any] = {
    "Cast": lambda name: functions.Cast(name, TextField()),
    "Collate": lambda name: functions.Collate(name, "nocase"),
    "Greatest": lambda name: functions.Greatest(name, name),
    "Least": lambda name: functions.Least(name, name),
    "NullIf": lambda name: functions.NullIf(name, name),
    "JSONObject": lambda name: functions.JSONObject(x=name),
    "ATan2": lambda name: functions.ATan2(name, Value(1.0)),
    "Log": lambda name: functions.Log(name, Value(2.0)),
    "Mod": lambda name: functions.Mod(name, Value(2.0)),
    "Power": lambda name: functions.Power(name, Value(2.0)),
    "Concat": lambda name: functions.Concat(name, Value("x"), output_field=TextField()),
    "ConcatPair": lambda name: functions.ConcatPair(name, Value("x"), output_field=TextField()),
    "Left": lambda name: functions.Left(name, 5),
    "Right": lambda name: functions.Right(name, 5),
    "LPad": lambda name: functions.LPad(name, 5),
    "RPad": lambda name: functions.RPad(name, 5),
    "Repeat": lambda name: functions.Repeat(name, 2),
    "Replace": lambda name: functions.Replace(name, Value("v2")),
    "StrIndex": lambda name: functions.StrIndex(name, Value("v2")),
    "Substr": lambda name: functions.Substr(name, 1, 12),
}
REFUSED: dict[str, Any] = {
    name: ARGUMENTS.get(name, getattr(functions, name))
    for name in functions.__all__
    if name not in PICKING and name not in WITHOUT and not name.startswith(("Extract", "Trunc"))
}
REFUSED |= {
    # and what is no function of that module
    "Func": lambda name: Func(F(name), function="hex", output_field=TextField()),
    "+": lambda name: ExpressionWrapper(F(name) + F(name), output_field=TextField()),
    "Wrapper": lambda name: ExpressionWrapper(F(name), output_field=TextField()),
    "Case as text": lambda name: Case(When(note="n", then=F(name)), output_field=TextField()),
    "Coalesce as text": lambda name: Coalesce(name, "note", output_field=TextField()),
    "Max as text": lambda name: Max(name, output_field=TextField()),
    "Max of a function": lambda name: Max(Upper(name)),
    "Count of different ones": lambda name: Count(name, distinct=True),
    "Sum": Sum,
    "Avg": Avg,
    "StdDev": StdDev,
    "Variance": Variance,
    "function in a Case": lambda name: Case(When(note="n", then=Length(name))),
    "function of a Case": lambda name: Length(Case(When(note="n", then=F(name)))),
    "function in a window": lambda name: _window(Max(Length(name))),
    "function of a function": lambda name: Cast(Length(name), CharField()),
    "function in a filter": lambda name: Count("pk", filter=Q(pk=Length(name))),
}


@pytest.mark.parametrize("name", ["secret", "data"])
@pytest.mark.parametrize("function", PICKING.values(), ids=list(PICKING))
def test_what_picks_one_gives_a_ciphertext(note: Note, function: Any, name: str) -> None:
    if function.__name__ == "AnyValue" and not connection.features.supports_any_value:
        pytest.skip("this database has no ANY_VALUE")
    (row,) = Note.objects.annotate(x=function(name)).values("x")
    assert type(row["x"]) is Ciphertext
    assert row["x"].token == stored(note, name)
    assert Note.objects.annotate(x=function(name)).get().secret == "s"


@pytest.mark.parametrize("name", ["secret", "data"])
@pytest.mark.parametrize("function", REFUSED.values(), ids=list(REFUSED))
def test_what_computes_with_it_is_refused(function: Any, name: str) -> None:
    for evaluate in (
        lambda: list(Note.objects.annotate(x=function(name))),
        lambda: list(Note.objects.annotate(x=function(name)).values_list("x")),
        lambda: list(Note.objects.annotate(y=F(name)).annotate(x=function("y"))),
    ):
        with pytest.raises(FieldError, match=WAY_OUT):
            evaluate()


@pytest.mark.parametrize(
    "name", [name for name in functions.__all__ if name.startswith(("Extract", "Trunc"))]
)
def test_django_itself_refuses_parts_of_a_date(name: str) -> None:
    function = getattr(functions, name)
    made = function("secret", "day") if name in {"Extract", "Trunc"} else function("secret")
    with pytest.raises((ValueError, TypeError, FieldError)):
        list(Note.objects.annotate(x=made))


def test_each_function_of_django_is_stated() -> None:
    known = {*PICKING, *WITHOUT, *REFUSED}
    parts = {name for name in functions.__all__ if name.startswith(("Extract", "Trunc"))}
    assert set(functions.__all__) <= known | parts


ELSEWHERE: dict[str, Any] = {
    "over a relation": lambda: list(Holder.objects.annotate(x=Length("note__secret"))),
    "aggregate": lambda: Note.objects.aggregate(x=Max(Length("secret"))),
    "aggregate of different rows": lambda: Note.objects.distinct().aggregate(
        x=Max(Length("secret"))
    ),
    "sum of a slice": lambda: Note.objects.all()[:1].aggregate(x=Sum("secret")),
    "group": lambda: list(Note.objects.values(x=Length("secret")).annotate(n=Count("pk"))),
    "of a subquery": lambda: list(
        Plain.objects.annotate(x=Length(Subquery(Note.objects.values("secret")[:1])))
    ),
    "in a subquery": lambda: list(
        Plain.objects.annotate(x=Subquery(Note.objects.values(x=Upper("secret"))[:1]))
    ),
    "of an outer row": lambda: list(
        Note.objects.annotate(x=Subquery(Plain.objects.values(x=Lower(OuterRef("secret")))[:1]))
    ),
    "into another column": lambda: Note.objects.update(note=functions.Left("secret", 5)),
    "into another table": lambda: Plain.objects.update(
        note=functions.Left(Subquery(Note.objects.values("secret")[:1]), 5)
    ),
}


@pytest.mark.parametrize("evaluate", ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_so_it_is_wherever_the_function_stands(tenant: Tenant, evaluate: Any) -> None:
    Plain.objects.create(tenant=tenant, note="n")
    with refused(FieldError, match=WAY_OUT):
        evaluate()
    assert (Note.objects.get().note, Plain.objects.get().note) == ("n", "n")


def test_functions_of_whether_it_is_null_work(note: Note) -> None:
    whether = Q(secret__isnull=True)
    for function, expected in (
        (Cast(ExpressionWrapper(whether, BooleanField()), IntegerField()), 0),
        (Cast(Count("secret"), CharField()), "1"),
        (Case(When(whether, then=Length("note")), default=Value(7)), 7),
        (Upper("note"), "N"),
        (Exists(Note.objects.filter(secret__isnull=False).values("secret")), True),
    ):
        assert Note.objects.annotate(x=function).get().x == expected


@pytest.mark.skipif(connection.vendor != "postgresql", reason="functions of PostgreSQL")
def test_aggregates_of_postgresql(note: Note) -> None:
    # It imports PostgreSQL's driver.
    from django.contrib.postgres.aggregates import ArrayAgg, JSONBAgg, StringAgg  # noqa: PLC0415

    (found,) = Note.objects.aggregate(x=ArrayAgg("secret"))["x"]
    assert type(found) is Ciphertext
    assert found.token == stored(note, "secret")
    for aggregate in (
        JSONBAgg("secret"),
        StringAgg("secret", Value(","), output_field=TextField()),
        ArrayAgg("secret", distinct=True),
        ArrayAgg(Upper("secret")),
    ):
        with pytest.raises(FieldError, match="is encrypted"):
            Note.objects.aggregate(x=aggregate)
