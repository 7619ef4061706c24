"""Entity tags (RFC 9110, 8.8.3): a client can tell that what it read is what it changes."""

from hashlib import sha256
from typing import Any

from django.utils.http import parse_etags, quote_etag
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from projects.errors import PreconditionFailed


def etag_of(representation: Any) -> str:
    """A strong entity tag of what is shown of an object."""
    return quote_etag(sha256(JSONRenderer().render(representation)).hexdigest()[:32])


def is_fresh(request: Request, etag: str) -> bool:
    """Say whether the client has this very version already (``If-None-Match``)."""
    given = parse_etags(request.headers.get("If-None-Match", ""))
    weak = {tag.removeprefix("W/") for tag in given}
    return "*" in weak or etag in weak


def require_match(request: Request, etag: str) -> None:
    """Hold the client to its ``If-Match``, if it sent one.

    Raises:
        PreconditionFailed: the object is another version by now.
    """
    header = request.headers.get("If-Match")
    if header is None:
        return
    given = parse_etags(header)
    if "*" not in given and etag not in given:
        raise PreconditionFailed
