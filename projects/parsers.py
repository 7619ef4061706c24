"""The one parser of request bodies."""

import codecs
import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


class StrictJSONParser(JSONParser):
    """JSON (RFC 8259) in UTF-8 without what it leaves open: repeated keys, NaN, lone surrogates.

    Two readers of one document could each see another value in those. Its errors repeat nothing of
    the document.
    """

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            text = codecs.decode(stream.read(), "utf-8")
            value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            pass
        else:
            return value
        raise ParseError("The body is not JSON in UTF-8, or has a key twice.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _refuse(constant: str) -> Any:
    raise ValueError
