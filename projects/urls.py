"""The URLs of projects, below ``/api/v1/``."""

from rest_framework.routers import SimpleRouter

from projects.views import MemberViewSet, ProjectViewSet

router = SimpleRouter(use_regex_path=False)
router.register("projects", ProjectViewSet, basename="project")
router.register("projects/<uuid:project_id>/members", MemberViewSet, basename="member")

urlpatterns = router.urls
