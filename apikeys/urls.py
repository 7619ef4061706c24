"""The URLs of API keys and AI keys, below ``/api/v1/``."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from apikeys.views import AIKeyView, ApiKeyViewSet

router = SimpleRouter(use_regex_path=False)
router.register("projects/<uuid:project_id>/api-keys", ApiKeyViewSet, basename="api-key")

urlpatterns = [
    *router.urls,
    path("me/ai-keys/<slug:provider>/", AIKeyView.as_view(), name="ai-key"),
]
