"""The one parser of request bodies."""

import codecs
import json
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from encryption.entry import loads_strictly


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
        # The framework reads the stream itself, past the limit that Django has for bodies.
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or -1
        body = stream.read(most + 1 if most > 0 else -1)
        if 0 < most < len(body):
            raise RequestDataTooBig
        try:
            text = codecs.decode(body, "utf-8")
            value = loads_strictly(text)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            pass
        else:
            return value
        raise ParseError("The body is not JSON in UTF-8, or has a key twice.")
