"""Where a value comes out without being asked for."""

import pickle
from importlib import import_module

from django import forms
from django.core import serializers

from benchmarks.comparison.probes import SECRET, probe
from benchmarks.comparison.subject import Subject


@probe("`dumpdata`")
def dumps(subject: Subject) -> str:
    row = subject.again(subject.new(secret=SECRET))
    return "plaintext" if SECRET in serializers.serialize("json", [row]) else "ciphertext"


@probe("`pickle` and caches, after the value was read")
def pickles(subject: Subject) -> str:
    row = subject.again(subject.new(secret=SECRET))
    assert row.secret == SECRET
    return "plaintext" if SECRET.encode() in pickle.dumps(row) else "ciphertext"


def _form(subject: Subject) -> type[forms.ModelForm]:
    return forms.modelform_factory(subject.row, fields=["secret"])


@probe("the page of a `ModelForm`")
def renders(subject: Subject) -> str:
    row = subject.again(subject.new(secret=SECRET))
    return (
        "shows the value" if SECRET in _form(subject)(instance=row).as_p() else "does not show it"
    )


@probe("a token typed into a form")
def takes_a_pasted_token(subject: Subject) -> str:
    token = subject.raw(subject.new(secret=SECRET))
    if isinstance(token, bytes):
        return "not a text"
    row = subject.new(secret="before")
    form = _form(subject)({"secret": token}, instance=subject.again(row))
    if not form.is_valid():
        return "refused"
    form.save()
    return "stored as that text" if subject.read(row) == token else "decrypted into another value"


@probe("REST framework's `ModelSerializer`")
def serializes(subject: Subject) -> str:
    base = import_module("rest_framework.serializers").ModelSerializer  # which asks for settings
    meta = type("Meta", (), {"model": subject.row, "fields": ["secret"]})
    serializer = type("RowSerializer", (base,), {"Meta": meta})
    row = subject.again(subject.new(secret=SECRET))
    return "gives the value" if SECRET in str(serializer(row).data) else "does not give it"
