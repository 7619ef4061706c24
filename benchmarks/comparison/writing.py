"""What becomes of a value that is written in each of the ways of the ORM."""

from django.apps import apps
from django.db import connection, models
from django.db.migrations import AddField
from django.db.migrations.state import ProjectState
from django.db.models.functions import Upper

from benchmarks.comparison.probes import CLEAR, SECRET, outcome, probe, raised
from benchmarks.comparison.subject import Subject


@probe("`save()`")
def saves(subject: Subject) -> str:
    row = subject.new()
    row.secret = SECRET
    return outcome(subject, row, SECRET, row.save)


@probe("`bulk_create()`")
def creates_in_bulk(subject: Subject) -> str:
    tenant = subject.tenant.objects.create(name="one")
    row = subject.row(tenant=tenant, secret=SECRET)
    error = raised(lambda: subject.row.objects.bulk_create([row]))
    return error or outcome(subject, row, SECRET, lambda: None)


@probe("`bulk_update()`")
def updates_in_bulk(subject: Subject) -> str:
    row = subject.new(secret="before")
    row.secret = SECRET
    return outcome(subject, row, SECRET, lambda: subject.row.objects.bulk_update([row], ["secret"]))


@probe("`bulk_create(update_conflicts=True)`")
def upserts(subject: Subject) -> str:
    row = subject.new(secret="before")
    row.secret = SECRET
    names = [field.name for field in subject.row._meta.fields if field.name not in ("id", "plain")]
    options = {"update_conflicts": True, "unique_fields": ["id"], "update_fields": names}
    return outcome(subject, row, SECRET, lambda: subject.row.objects.bulk_create([row], **options))


@probe('`update(secret="x")`')
def updates(subject: Subject) -> str:
    row = subject.new(secret="before")
    rows = subject.row.objects.filter(pk=row.pk)
    return outcome(subject, row, SECRET, lambda: rows.update(secret=SECRET))


@probe('`update(secret=F("plain"))`')
def updates_from_a_column(subject: Subject) -> str:
    row = subject.new(secret="before", plain=SECRET)
    rows = subject.row.objects.filter(pk=row.pk)
    return outcome(subject, row, SECRET, lambda: rows.update(secret=models.F("plain")))


@probe('`update(secret=Upper(Value("x")))`')
def updates_by_a_function(subject: Subject) -> str:
    row = subject.new(secret="before")
    rows = subject.row.objects.filter(pk=row.pk)
    upper = Upper(models.Value(SECRET))
    return outcome(subject, row, SECRET.upper(), lambda: rows.update(secret=upper))


@probe("a migration that adds the field with a default")
def adds_with_a_default(subject: Subject) -> str:
    rows = [subject.new(), subject.new()]
    operation = AddField("row", "added", subject.fields["text"](default=SECRET))
    before = ProjectState.from_apps(apps)
    after = before.clone()
    operation.state_forwards("comparison", after)

    def add() -> None:
        with connection.schema_editor() as editor:
            operation.database_forwards("comparison", editor, before, after)

    if error := raised(add):
        return error
    first, second = (subject.raw(row, "added") for row in rows)
    with connection.schema_editor() as editor:
        operation.database_backwards("comparison", editor, after, before)
    if subject.shows(SECRET, first):
        return CLEAR
    return "one ciphertext in every row" if first == second else "works"


@probe("`save()` of a row whose secret was not changed")
def saves_unchanged(subject: Subject) -> str:
    row = subject.new(secret=SECRET)
    before = subject.raw(row)
    subject.again(row).save()
    return "the same token" if subject.raw(row) == before else "encrypted anew"


@probe('`""` and `None`')
def keeps_empty_values(subject: Subject) -> str:
    empty, null = subject.new(secret=""), subject.new(secret=None)
    read = subject.read(empty), subject.read(null)
    return "kept" if read == ("", None) else f"become `{read[0]!r}` and `{read[1]!r}`"


@probe("types inside of JSON")
def keeps_types(subject: Subject) -> str:
    if "json" not in subject.fields:
        return "no JSON field"
    for value in ({"n": 1}, {"n": None}, {"n": True, "text": ""}, [], 0, False):
        try:
            row = subject.new(document=value)
        except Exception as error:  # noqa: BLE001
            return f"{value!r} fails ({type(error).__name__})"
        read = subject.read(row, "document")
        if read != value or type(read) is not type(value):
            return f"`{value!r}` becomes `{read!r}`"
    return "kept"


@probe("keys of a JSON object in the column")
def hides_keys(subject: Subject) -> str:
    if "json" not in subject.fields:
        return "no JSON field"
    row = subject.new(document={"account_number": "x"})
    return "in clear" if subject.shows("account_number", subject.raw(row, "document")) else "hidden"


@probe("moving a row to another tenant, and `save()`")
def moves_to_another_tenant(subject: Subject) -> str:
    row = subject.again(subject.new(secret=SECRET))
    row.tenant = subject.tenant.objects.create(name="two")
    return outcome(subject, row, SECRET, row.save)
