"""Projects and their members as JSON."""

from typing import Any, ClassVar

from django.contrib.auth import get_user_model
from rest_framework import serializers

from projects.models import Membership, Project
from projects.roles import Role
from projects.strict import StrictMixin

User = get_user_model()


class ProjectSerializer(StrictMixin, serializers.ModelSerializer[Project]):
    owner = serializers.CharField(source="owner.get_username", read_only=True)
    role = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields = ("id", "name", "owner", "role", "created_at", "updated_at")
        read_only_fields = ("id", "created_at", "updated_at")
        extra_kwargs: ClassVar[dict[str, Any]] = {"name": {"allow_blank": False}}

    def get_role(self, project: Project) -> str | None:
        """The caller's role; null for an API key."""
        role: str | None = getattr(project, "caller_role", None)
        return role


class MemberSerializer(StrictMixin, serializers.ModelSerializer[Membership]):
    user = serializers.SlugRelatedField(
        "username", queryset=User.objects.filter(is_active=True), help_text="The user name."
    )
    role = serializers.ChoiceField(Role.choices)

    class Meta:
        model = Membership
        fields = ("id", "user", "role", "created_at")
        read_only_fields = ("id", "created_at")

    def validate_role(self, role: str) -> str:
        if role == Role.OWNER:
            raise serializers.ValidationError(
                "Nobody but the project's owner has this role.", code="not_grantable"
            )
        return role

    def validate_user(self, user: Any) -> Any:
        if self.instance is not None:
            raise serializers.ValidationError("A membership keeps its user.", code="immutable")
        if Membership.objects.filter(project=self.context["project"], user=user).exists():
            raise serializers.ValidationError("This user is a member already.", code="unique")
        return user
