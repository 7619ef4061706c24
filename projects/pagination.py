"""Pages that refuse a size that is none, where REST framework would take another one silently."""

import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from rest_framework.exceptions import ErrorDetail, NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request


class StrictCursorPagination(CursorPagination):
    """Cursor pages, the size of which is a whole number from 1 to ``max_page_size``.

    The first field of the ordering is a time.
    """

    page_size_query_param = "page_size"
    page_size = 50
    max_page_size = 200

    def get_page_size(self, request: Request) -> int:
        given = request.query_params.getlist("page_size")
        if not given:
            return int(self.page_size)
        whole = len(given) == 1 and re.fullmatch(r"[0-9]{1,4}", given[0])
        size = int(given[0]) if whole else 0
        if not 1 <= size <= self.max_page_size:
            text = f"Send a whole number from 1 to {self.max_page_size}."
            raise ValidationError({"page_size": [ErrorDetail(text, code="invalid")]})
        return size

    def decode_cursor(self, request: Request) -> Cursor | None:
        """As REST framework's, which takes much that is no cursor for the first page, and fails
        at the database over a position that is no time.

        Raises:
            ValidationError: the cursor is not one of ours; REST framework says "not found".
        """
        cursor: Cursor | None
        try:
            sent = parse_qs(
                b64decode(request.query_params.get("cursor", ""), validate=True),
                keep_blank_values=True,
            )
            if not sent.keys() <= {b"o", b"r", b"p"}:
                raise self._invalid_cursor()
            cursor = super().decode_cursor(request)
        except (ValueError, NotFound):
            raise self._invalid_cursor() from None
        if cursor is None or cursor.position is None:
            return cursor
        try:
            moment = datetime.fromisoformat(str(cursor.position))
            moment.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is None or moment.utcoffset() is None:
            raise self._invalid_cursor()
        return cursor

    def _invalid_cursor(self) -> ValidationError:
        text = "This cursor is none. Follow the links of a list, or begin without one."
        return ValidationError({"cursor": [ErrorDetail(text, code="invalid")]})

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            if parameter["name"] == "page_size":
                parameter["schema"] = {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": self.max_page_size,
                }
        return parameters


class NewestFirstPagination(StrictCursorPagination):
    """For what has ``created_at``: the newest first."""

    ordering = ("-created_at", "-pk")
