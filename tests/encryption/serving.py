"""A site that reads and writes notes over HTTP, for tests with real servers.

KEYRING is its ``ENCRYPTION`` setting, as JSON. It encrypts when it is imported, so that a server
that loads it before it forks hands its workers keys that were derived and a cache that was used.
"""

import json
import os
import traceback
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.encryption.keys_of_environment")
settings.ENCRYPTION = json.loads(os.environ["KEYRING"])
settings.ROOT_URLCONF = __name__
settings.MIDDLEWARE = []
settings.ALLOWED_HOSTS = ["*"]
# An async server takes a new thread, and so a new connection, for each request.
settings.DATABASES["default"]["CONN_MAX_AGE"] = 0
if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    settings.DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 120}
django.setup()

from encryption import encrypt  # noqa: E402
from tests.fieldapp.models import Note  # noqa: E402


def shown(note: Note) -> dict[str, Any]:
    return {
        "tenant": note.tenant_id,
        "secret": note.secret,
        "data": note.data,
        "pid": os.getpid(),
    }


def changed(note: Note, request: HttpRequest) -> list[str] | None:
    """Set what the request says, and return the fields to save; ``None`` for all."""
    body = json.loads(request.body)
    if "tenant" in body:
        note.tenant_id = body["tenant"]
        return ["tenant"]
    note.secret = body["secret"]
    note.data["times"] = note.data.get("times", 0) + 1
    return ["secret", "data"] if body.get("part") else None


def note(request: HttpRequest, pk: int) -> JsonResponse:
    found = Note.objects.get(pk=pk)
    if request.method == "POST":
        found.save(update_fields=changed(found, request))
    return JsonResponse(shown(found))


async def note_async(request: HttpRequest, pk: int) -> JsonResponse:
    if request.method == "POST":
        found = await Note.objects.aget(pk=pk)
        await found.asave(update_fields=changed(found, request))
    else:
        found = await Note.objects.only("secret", "data").aget(pk=pk)
    return JsonResponse(shown(found))


def notes(request: HttpRequest, pk: int) -> JsonResponse:
    found = Note.objects.filter(pk__gte=pk).order_by("pk")[:20]
    return JsonResponse({str(one.pk): shown(one) for one in found})


async def notes_async(request: HttpRequest, pk: int) -> JsonResponse:
    found = Note.objects.filter(pk__gte=pk).order_by("pk")[:20]
    return JsonResponse({str(one.pk): shown(one) async for one in found})


def failed(request: HttpRequest) -> JsonResponse:
    """What went wrong, for the test to show."""
    return JsonResponse({"error": traceback.format_exc()}, status=500)


handler500 = failed
urlpatterns = [
    path("note/<int:pk>/", note),
    path("notes/<int:pk>/", notes),
    path("async/note/<int:pk>/", note_async),
    path("async/notes/<int:pk>/", notes_async),
]


encrypt("x", "1")
wsgi = get_wsgi_application()
asgi = get_asgi_application()
