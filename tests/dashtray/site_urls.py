"""The site's addresses, and pages that work and fail on demand."""

import os

from django.http import HttpRequest, HttpResponse
from django.urls import path

from dashtray import urls
from encryption import decrypt, encrypt


def effort(request: HttpRequest) -> HttpResponse:
    """Encrypt and decrypt ten values of one tenant, and tell which process did."""
    for _ in range(10):
        decrypt(encrypt("text", "tenant"), "tenant")
    return HttpResponse(str(os.getpid()))


def fail(request: HttpRequest) -> HttpResponse:
    """Fail with a secret in a variable and in the message."""
    token = encrypt("the canary", "tenant")
    raise RuntimeError(f"cannot use {token} of sk-canary-of-the-message")


urlpatterns = [path("effort/", effort), path("fail/", fail), *urls.urlpatterns]
