"""The URLs of connections, below ``/api/v1/``."""

from rest_framework.routers import SimpleRouter

from connections.views import ConnectionViewSet, MetricViewSet

router = SimpleRouter(use_regex_path=False)
router.register("projects/<uuid:project_id>/connections", ConnectionViewSet, basename="connection")
router.register(
    "projects/<uuid:project_id>/connections/<uuid:connection_id>/metrics",
    MetricViewSet,
    basename="metric",
)

urlpatterns = router.urls
