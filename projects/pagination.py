"""Pages that refuse a size that is none, where REST framework would take another one silently."""

import re
from typing import Any

from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request


class StrictCursorPagination(CursorPagination):
    """Cursor pages, the size of which is a whole number from 1 to ``max_page_size``."""

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
