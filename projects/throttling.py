"""How often somebody may call, whatever the answer.

REST framework asks its throttles last, about requests that are allowed: keys could be tried as
often as somebody likes.
"""

from collections.abc import Iterable

from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView


class CallerThrottled(APIView):
    """A view that counts a request before it asks whether the request is allowed.

    ``throttle_classes`` limit the caller: a key, a person, or the address of anybody else, a
    caller whose key or session was refused too. What ``get_throttles`` adds to them limits what is
    called, and counts what is allowed alone: nobody uses up what belongs to others.
    """

    def perform_authentication(self, request: Request) -> None:
        try:
            super().perform_authentication(request)
        except APIException:
            self._hold_back(request, self._callers())  # REST framework has made it anonymous
            raise
        self._hold_back(request, self._callers())

    def check_throttles(self, request: Request) -> None:
        known = tuple(self.throttle_classes)
        self._hold_back(request, [one for one in self.get_throttles() if type(one) not in known])

    def _callers(self) -> list[BaseThrottle]:
        return [throttle() for throttle in self.throttle_classes]

    def _hold_back(self, request: Request, throttles: Iterable[BaseThrottle]) -> None:
        """As REST framework's ``check_throttles``, for some of the throttles."""
        waits = [one.wait() for one in throttles if not one.allow_request(request, self)]
        if waits:
            known = [seconds for seconds in waits if seconds is not None]
            self.throttled(request, max(known, default=None))  # type: ignore[arg-type]
