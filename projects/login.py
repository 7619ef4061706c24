"""Limits on guessing passwords, wherever somebody logs in.

`ThrottledBackend` is the first of the authentication backends, so it is asked by all that calls
Django's `authenticate` with a request: the admin's log-in, and any other that is added. It counts
by name and address together, so nobody can lock out somebody else from elsewhere, and by address.
Whether there is a user of that name makes no difference to the answer, nor to the count.
"""

import logging
import unicodedata
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm, AdminPasswordChangeForm
from django.contrib.auth.signals import user_logged_in
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import PermissionDenied, ValidationError
from django.dispatch import receiver
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.urls import reverse_lazy

from projects.attempts import Attempts, check_password_again, locked_out
from projects.clients import client_address

logger = logging.getLogger(__name__)

#: Of one name from one address, and of one address whatever the names: 15 minutes.
OF_NAME = Attempts("login", limit=5, window=15 * 60)
OF_ADDRESS = Attempts("address", limit=50, window=15 * 60)

Respond = Callable[[HttpRequest], HttpResponse]


def address_of(request: HttpRequest) -> str:
    """The client's address; of IPv6 the network, of which one customer has them all."""
    address = client_address(request)
    return ":".join(address.split(":")[:4]) if ":" in address else address


def _folded(username: object) -> str:
    return unicodedata.normalize("NFKC", str(username)).casefold()


class ThrottledBackend:
    """Refuses who tried too often, before any password is hashed.

    It knows no user, so it has no `get_user`, by which Django tells a backend that logs in.
    """

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, **credentials: Any
    ) -> None:
        """Count the attempt.

        Raises:
            PermissionDenied: too many; `request.locked_out_for` says for how many seconds.
        """
        if request is None or username is None:
            return
        address = address_of(request)
        wait = max(OF_NAME.claim(_folded(username), address), OF_ADDRESS.claim(address))
        if wait:
            lock_out(request, wait)
            raise PermissionDenied

    async def aauthenticate(self, request: HttpRequest | None, **credentials: Any) -> None:
        """Count the attempt, for who awaits it."""
        await sync_to_async(self.authenticate)(request, **credentials)


def lock_out(request: HttpRequest, wait: int) -> None:
    """Let the reply be 429, with the seconds to wait."""
    request.locked_out_for = wait  # type: ignore[attr-defined]
    # Without the name: people type passwords there.
    logger.warning("Locked out for %d seconds: %s", wait, address_of(request))


@receiver(user_logged_in, dispatch_uid="projects.login")
def _succeeded(request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    if request is not None:
        address = address_of(request)
        OF_NAME.clear(_folded(user.get_username()), address)
        OF_ADDRESS.give_back(address)


class LoginForm(AdminAuthenticationForm):
    """The admin's log-in form, which tells who is locked out to wait."""

    def get_invalid_login_error(self) -> ValidationError:
        wait = getattr(self.request, "locked_out_for", 0)
        return locked_out(wait) if wait else super().get_invalid_login_error()


class PasswordChangeForm(AdminPasswordChangeForm):
    """Who finds a session open cannot guess the password here either."""

    def clean_old_password(self) -> str:
        password: str = self.cleaned_data["old_password"]
        check_password_again(self.user, password)
        return password


class PasswordChange(PasswordChangeView):
    """The admin's page, which has no setting for its form."""

    form_class = PasswordChangeForm
    success_url = reverse_lazy("admin:password_change_done")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**admin.site.each_context(self.request), **kwargs)

    def form_invalid(self, form: Any) -> HttpResponse:
        lock_out_if_told(self.request, form)
        return super().form_invalid(form)


def lock_out_if_told(request: HttpRequest, form: Form) -> None:
    """Let the reply be 429 if a field of a form has the error of `check_password_again`."""
    for errors in form.errors.as_data().values():
        for error in errors:
            if error.code == "locked_out" and error.params:
                lock_out(request, error.params["wait"])


class LockOutMiddleware:
    """Gives a reply to somebody locked out the status 429 and a `Retry-After`."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        wait = getattr(request, "locked_out_for", 0)
        if wait:
            response.status_code = 429
            response.headers["Retry-After"] = str(wait)
        return response
