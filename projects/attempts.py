"""How often something may be tried, such as a password; counted in the default cache.

An attempt is counted before it is made, so that many at once get no more than one after the other.
Processes that share a cache (``CACHE_URL``) share the count; else each has its own.
"""

import hashlib
import time
from typing import Any

from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _, ngettext_lazy


class Attempts:
    """A limit of attempts in a window of time.

    Windows begin by the clock, so twice the limit may fall around the turn of one.

    Args:
        scope: names the limit in the cache.
        limit: attempts in one window.
        window: seconds.
    """

    def __init__(self, scope: str, limit: int, window: int) -> None:
        self.scope = scope
        self.limit = limit
        self.window = window

    def claim(self, *who: object) -> int:
        """Count one attempt; return 0 if it may be made, else the seconds until one may."""
        key = self._key(who)
        cache.add(key, 0, self.window)
        try:
            count = cache.incr(key)
        except ValueError:  # it was thrown out just now
            count = 1
        return 0 if count <= self.limit else self.window - int(time.time()) % self.window

    def give_back(self, *who: object) -> None:
        """Take back the count of an attempt that succeeded."""
        try:
            cache.decr(self._key(who))
        except ValueError:  # another window has begun
            pass

    def clear(self, *who: object) -> None:
        """Forget all attempts."""
        cache.delete(self._key(who))

    def _key(self, who: tuple[object, ...]) -> str:
        # A digest: names of users are nothing for a cache, and may be longer than a key.
        name = hashlib.sha256("\0".join(map(str, who)).encode("utf-8", "replace")).hexdigest()
        return f"attempts.{self.scope}.{int(time.time()) // self.window}.{name}"


#: Of a user who is logged in and is asked for the password once more.
PASSWORD_AGAIN = Attempts("password", limit=5, window=15 * 60)


def check_password_again(user: Any, password: str) -> None:
    """Check the password of a user who is logged in.

    Raises:
        ValidationError: with the code "locked_out" and the param "wait" (seconds), or
            "wrong_password".
    """
    wait = PASSWORD_AGAIN.claim(user.pk)
    if wait:
        raise locked_out(wait)
    if not user.check_password(password):
        raise ValidationError(_("This is not your password."), code="wrong_password")
    PASSWORD_AGAIN.clear(user.pk)


def locked_out(wait: int) -> ValidationError:
    """The error for somebody who has to wait so many seconds."""
    return ValidationError(
        ngettext_lazy(
            "The password was wrong too often. Try again in %(minutes)d minute.",
            "The password was wrong too often. Try again in %(minutes)d minutes.",
            "minutes",
        ),
        code="locked_out",
        params={"minutes": -(-wait // 60), "wait": wait},
    )
