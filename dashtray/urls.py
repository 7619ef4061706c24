"""The URLs of the site. Each application adds its own below `/api/v1/`."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from dashtray.errors import NoSuchEndpointView

admin.site.site_header = admin.site.site_title = "Dashtray"
admin.site.index_title = "Overview"

api: list[URLPattern | URLResolver] = [
    path("", include("projects.urls")),
    path("", include("connections.urls")),
    path("", include("apikeys.urls")),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(), name="docs"),
    re_path("", NoSuchEndpointView.as_view()),
]

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/v1/", include(api)),
]
