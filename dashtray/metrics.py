"""`/metrics`, for Prometheus with the token of the settings, and for staff; for nobody else."""

from importlib.util import find_spec
from typing import Any, Final

from django.conf import settings
from django.core.signals import request_finished
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

PATH: Final = "/metrics"
INSTALLED: Final = find_spec("prometheus_client") is not None


def may_read(request: HttpRequest) -> bool:
    """Say whether a request brings the token, or the session of a staff member."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if settings.METRICS_TOKEN and scheme.lower() == "bearer":
        return constant_time_compare(token, settings.METRICS_TOKEN)
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the figures in Prometheus' text format."""
    if not may_read(request):
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    if not INSTALLED:
        raise Http404
    from encryption.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415  # an extra

    body = exposition(settings.HEALTH_COUNT_SECONDS)
    return HttpResponse(body, content_type=CONTENT_TYPE)


def install() -> None:
    """Publish what was counted after each request, and after each task of a worker."""
    if not INSTALLED:
        return
    from encryption.metrics import publish  # noqa: PLC0415  # an extra

    def after(**kwargs: Any) -> None:
        publish()

    request_finished.connect(after, weak=False, dispatch_uid="dashtray.metrics")
    if settings.CELERY_BROKER_URL:
        from celery.signals import task_postrun  # noqa: PLC0415  # an extra

        task_postrun.connect(after, weak=False, dispatch_uid="dashtray.metrics")
