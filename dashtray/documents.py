"""What the API tells of itself. Anybody may read it, but a key that is sent along is looked at."""

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from projects.throttling import CallerThrottled


class SchemaView(CallerThrottled, SpectacularAPIView):
    """The OpenAPI document."""


class DocsView(CallerThrottled, SpectacularSwaggerSplitView):
    """The page that shows it."""

    template_name = "dashtray/api_docs.html"
