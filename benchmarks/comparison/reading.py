"""What is read and found, also of columns that somebody changed."""

from typing import Any

from django.core import checks
from django.db import connection, models

from benchmarks.comparison.probes import SECRET, probe, raised
from benchmarks.comparison.subject import UNREADABLE, Subject, damaged


@probe("a changed ciphertext, read")
def reads_damage(subject: Subject) -> str:
    row = subject.new(secret=SECRET)
    token = damaged(subject.raw(row))
    subject.put(row, token)
    read = subject.read(row)
    if read == UNREADABLE:
        return "an error"
    return "given back as the value" if read == token else "another value"


@probe("a list with one such row")
def lists_damage(subject: Subject) -> str:
    row, good = subject.new(secret=SECRET), subject.new(secret="good")
    subject.put(row, damaged(subject.raw(row)))
    if raised(lambda: list(subject.row.objects.filter(pk__in=[row.pk, good.pk]))):
        return "fails"
    return "loads" if subject.read(row) == UNREADABLE else "loads, with a wrong value"


def _puts_into(subject: Subject, row: Any, other: Any) -> str:
    subject.put(other, subject.raw(row))
    return "accepted" if subject.read(other) == SECRET else "an error"


@probe("a ciphertext put into the row of another tenant")
def moves_between_tenants(subject: Subject) -> str:
    return _puts_into(subject, subject.new(secret=SECRET), subject.new(secret="other"))


@probe("a ciphertext put into another row of the tenant")
def moves_between_rows(subject: Subject) -> str:
    row = subject.new(secret=SECRET)
    return _puts_into(subject, row, subject.new(secret="other", tenant=row.tenant))


@probe("a ciphertext put into another column")
def moves_between_columns(subject: Subject) -> str:
    row = subject.new(secret=SECRET, other="other")
    subject.put(row, subject.raw(row), "other")
    return "accepted" if subject.read(row, "other") == SECRET else "an error"


@probe("plaintext in the column, read")
def reads_plaintext(subject: Subject) -> str:
    row = subject.new(secret="before")
    subject.put(row, SECRET.encode() if isinstance(subject.raw(row), bytes) else SECRET)
    return "given back as the value" if subject.read(row) == SECRET else "an error"


@probe("two equal values in the database")
def hides_equality(subject: Subject) -> str:
    one, two = subject.new(secret=SECRET), subject.new(secret=SECRET)
    return "look the same" if subject.raw(one) == subject.raw(two) else "look different"


@probe("`values_list()`")
def lists_values(subject: Subject) -> str:
    row = subject.new(secret=SECRET)
    (found,) = subject.row.objects.filter(pk=row.pk).values_list("secret", flat=True)
    return "plaintext" if found == SECRET else "a ciphertext object"


def _looks_up(subject: Subject, **condition: str) -> str:
    row = subject.new(secret=SECRET)
    found: list[Any] = []
    if error := raised(lambda: found.extend(subject.row.objects.filter(**condition))):
        return error
    return "works" if row in found else "finds nothing, silently"


@probe('`filter(secret="x")`')
def compares(subject: Subject) -> str:
    return _looks_up(subject, secret=SECRET)


@probe('`filter(secret__startswith="x")`')
def compares_the_start(subject: Subject) -> str:
    return _looks_up(subject, secret__startswith=SECRET[:4])


@probe('`order_by("secret")`')
def sorts(subject: Subject) -> str:
    for text in "bdaecf":
        subject.new(secret=text, plain="sorted")
    found: list[Any] = []
    rows = subject.row.objects.filter(plain="sorted").order_by("secret")
    if error := raised(lambda: found.extend(row.secret for row in rows)):
        return error
    return "works" if found == sorted(found) else "sorts ciphertexts, silently"


@probe("`unique=True`")
def is_unique(subject: Subject) -> str:
    made: list[Any] = []

    def make() -> None:
        columns = {"tenant": models.ForeignKey(subject.tenant, models.CASCADE)}
        secret = subject.fields["text"](unique=True)
        made.append(subject.model("Unique", **columns, secret=secret))

    if error := raised(make):
        return error
    (model,) = made
    if any(message.obj in model._meta.fields for message in checks.run_checks()):
        return "refused by a system check"
    with connection.schema_editor() as editor:
        editor.create_model(model)
    tenant = subject.tenant.objects.create(name="one")
    model.objects.create(tenant=tenant, secret=SECRET)
    return (raised(lambda: model.objects.create(tenant=tenant, secret=SECRET)) and "works") or (
        "accepted, and stores duplicates"
    )


@probe("looking a value up by a field made for it")
def finds(subject: Subject) -> str:
    if subject.package.search is None:
        return "no such field"
    columns, condition = subject.package.search(subject.tenant)
    tenant = models.ForeignKey(subject.tenant, models.CASCADE)
    model = subject.model("Found", tenant=tenant, **columns)
    with connection.schema_editor() as editor:
        editor.create_model(model)
    row = model.objects.create(tenant=subject.tenant.objects.create(name="one"), secret=SECRET)
    found: list[Any] = []
    error = raised(lambda: found.extend(model.objects.filter(**condition(SECRET, row))))
    return error or ("works" if row in found else "finds nothing")
