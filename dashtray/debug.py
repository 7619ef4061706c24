"""What a traceback page may show."""

import re
from types import FrameType
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter


class MaskingReporterFilter(SafeExceptionReporterFilter):
    """Shows the types of a frame's variables and masks what was posted and all cookies.

    Django's own filter hides only what decorators name, and nothing while DEBUG is on. Here any
    frame below a view may hold a decrypted credential, in a variable of any name.
    """

    # The development server puts the process environment into `request.META`, and these two
    # addresses carry passwords.
    hidden_settings = re.compile(
        SafeExceptionReporterFilter.hidden_settings.pattern + "|DATABASE_URL|BROKER_URL",
        flags=re.IGNORECASE,
    )

    def is_active(self, request: HttpRequest | None) -> bool:
        return True

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        if request is None:
            return {}
        return dict.fromkeys(request.POST, self.cleansed_substitute)

    def get_safe_cookies(self, request: HttpRequest | None) -> dict[str, Any]:
        return dict.fromkeys(getattr(request, "COOKIES", ()), self.cleansed_substitute)

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> Any:
        return [(name, type(value)) for name, value in tb_frame.f_locals.items()]
