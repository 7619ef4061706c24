"""A project is a tenant: what it holds is visible to its members alone."""

import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from projects.roles import Role

AnyUser = AbstractBaseUser | AnonymousUser


class ProjectQuerySet(models.QuerySet["Project"]):
    def for_user(self, user: AnyUser, least: Role = Role.VIEWER) -> "ProjectQuerySet":
        """The projects in which a user has this role or one above it.

        Being a superuser counts for nothing here; the admin site decides about that itself.
        """
        if user.pk is None:
            return self.none()
        return self.filter(
            pk__in=Membership.objects.filter(user=user.pk, role__in=Role.including(least)).values(
                "project"
            )
        )


class Project(models.Model):
    """A tenant. Its id is the salt of all that is encrypted for it, so it never changes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=200)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="owned_projects"
    )
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL, through="Membership", related_name="projects"
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True, editable=False)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        ordering = ("name", "pk")

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and make the owner the one member whose role is owner; a former one is an admin."""
        with transaction.atomic():
            super().save(*args, **kwargs)
            Membership.objects.filter(project=self, role=Role.OWNER).exclude(
                user=self.owner_id
            ).update(role=Role.ADMIN)
            Membership.objects.update_or_create(
                project=self, user_id=self.owner_id, defaults={"role": Role.OWNER}
            )

    def role_of(self, user: AnyUser) -> Role | None:
        """The role of a user in this project, or ``None``."""
        if user.pk is None:
            return None
        role = self.memberships.filter(user=user.pk).values_list("role", flat=True).first()
        return None if role is None else Role(role)


class Membership(models.Model):
    """That a user belongs to a project, and as what."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=10, choices=Role, default=Role.VIEWER)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True, editable=False)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_user")
        ]

    def __str__(self) -> str:
        return f"{self.get_role_display()} {self.user_id} of {self.project_id}"

    def clean(self) -> None:
        """Refuse a second owner, and a first one who is something less."""
        if not hasattr(self, "project") or not hasattr(self, "user"):
            return  # another error tells so
        owns = self.project.owner_id == self.user_id
        if owns != (self.role == Role.OWNER):
            raise ValidationError(
                {
                    "role": _(
                        "The owner, and nobody else, has this role: change the project's owner."
                    )
                }
            )


class LegacyId(models.Model):
    """What a document of the product that the data was moved over from is called here.

    It is what makes a second import do nothing twice.
    """

    table = models.CharField(max_length=50)
    legacy_id = models.CharField(max_length=100)
    local_id = models.CharField(max_length=100)

    class Meta:
        verbose_name = _("legacy id")
        verbose_name_plural = _("legacy ids")
        constraints = [
            models.UniqueConstraint(fields=["table", "legacy_id"], name="one_local_id_per_document")
        ]

    def __str__(self) -> str:
        return f"{self.table} {self.legacy_id}"
