"""Error replies of the REST API: one shape, and never a copy of what the client sent."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from django.core.exceptions import RequestDataTooBig
from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler
from drf_standardized_errors.types import Error
from rest_framework.exceptions import NotFound, ParseError, ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

# Codes whose standard text quotes the input, and what to say in its place.
QUIET_DETAILS = {
    "does_not_exist": "This object does not exist.",
    "invalid_choice": "This is not one of the allowed choices.",
    "method_not_allowed": "This method is not allowed here.",
    "unsupported_media_type": "This media type is not supported; send application/json.",
}

# A shorter input is more likely a common word of the message than a secret.
SHORTEST_ECHO = 8


def strings_in(value: Any) -> Iterator[str]:
    """Every string value inside parsed JSON, at any depth."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case dict() as mapping:
                waiting.extend(mapping.values())
            case list() as items:
                waiting.extend(items)


class ApiExceptionHandler(ExceptionHandler):
    """Answers what Django itself refuses in the API's own shape, too."""

    def convert_known_exceptions(self, exc: Exception) -> Exception:
        if isinstance(exc, RequestDataTooBig):
            return ParseError("The body is too large.", code="request_too_large")
        return super().convert_known_exceptions(exc)


class QuietExceptionFormatter(ExceptionFormatter):
    """Leaves the client's own values out of error texts: any of them may be a secret.

    Texts that are known to quote the input are replaced by their code. Validators of models and of
    other packages quote it under any code, so a text that holds a value of the request's body or
    query is replaced as well.
    """

    def get_errors(self) -> list[Error]:
        sent = self._sent() if isinstance(self.exc, ValidationError) else set()
        return [replace(error, detail=self._quiet(error, sent)) for error in super().get_errors()]

    def _quiet(self, error: Error, sent: set[str]) -> str:
        if error.code in QUIET_DETAILS:
            return QUIET_DETAILS[error.code]
        if any(text in error.detail for text in sent):
            return "This value is not valid."
        return error.detail

    def _sent(self) -> set[str]:
        request = self.context["request"]
        if request is None:
            return set()
        texts = {*strings_in(request.data)}
        for values in request.query_params.lists():
            texts.update(values[1])
        return {text for text in texts if len(text) >= SHORTEST_ECHO}


class NoSuchEndpointView(APIView):
    """Answers every other address below the API in the API's own error shape."""

    authentication_classes = ()
    permission_classes = ()
    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound
