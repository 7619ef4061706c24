"""Verification of an API key against djangorestframework-api-key, on SQLite."""

from importlib import import_module

from django.contrib.auth import get_user_model
from django.test import RequestFactory
from rest_framework.request import Request

from apikeys.authentication import ApiKeyAuthentication
from apikeys.models import Actor, ApiKey
from benchmarks.timing import Timing, interleaved, repeated
from projects.models import Project


def measure(times: int, repetitions: int) -> dict[str, dict[str, Timing]]:
    """Time the whole authentication of a request, and theirs: a look-up and a hash.

    Ours also refuses keys in the address, checks the checksum, the expiry and the address of the
    client, and notes the use; theirs answers yes or no. The baseline is Django's own query.
    """
    owner = get_user_model().objects.create(username="benchmark")
    project = Project.objects.create(name="Benchmark", owner=owner)
    key, token = ApiKey.objects.issue(
        project=project, name="benchmark", scopes=["projects:read"], by=Actor("benchmark")
    )
    request = Request(
        RequestFactory().get("/", headers={"Authorization": f"Bearer {token.plaintext}"})
    )
    authentication = ApiKeyAuthentication()
    tasks = {
        "query alone": repeated(lambda: ApiKey.objects.get(key_hash=key.key_hash), times),
        "dashtray": repeated(lambda: authentication.authenticate(request), times),
    }
    try:
        theirs = import_module("rest_framework_api_key.models").APIKey
        _, text = theirs.objects.create_key(name="benchmark")
    except (ImportError, RuntimeError):
        pass  # the table says that it does not run
    else:
        tasks["djangorestframework-api-key"] = repeated(
            lambda: theirs.objects.is_valid(text), times
        )
    return {"verify an API key": interleaved(tasks, times, repetitions)}
