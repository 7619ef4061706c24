"""The URLs of the site. Each application adds its own below `/api/v1/`."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView

from dashtray import health, metrics
from dashtray.documents import DocsView, SchemaView
from dashtray.errors import NoSuchEndpointView
from projects.login import LoginForm, PasswordChange

admin.site.site_header = admin.site.site_title = "Dashtray"
admin.site.index_title = "Overview"
admin.site.login_form = LoginForm

api: list[URLPattern | URLResolver] = [
    path("", include("projects.urls")),
    path("", include("connections.urls")),
    path("", include("apikeys.urls")),
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", DocsView.as_view(), name="docs"),
    re_path("", NoSuchEndpointView.as_view()),
]

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("health/live/", health.live, name="live"),
    path("health/ready/", health.ready, name="ready"),
    path("metrics", metrics.metrics, name="metrics"),
    path("admin/password_change/", admin.site.admin_view(PasswordChange.as_view(), cacheable=True)),
    path("admin/", admin.site.urls),
    path("api/v1/", include(api)),
]
