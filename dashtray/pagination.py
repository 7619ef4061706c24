from rest_framework.pagination import CursorPagination


class NewestFirstPagination(CursorPagination):
    """Pages of 50, or of `page_size` up to 200, by `created_at`; for models that have it."""

    ordering = ("-created_at", "-pk")
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
