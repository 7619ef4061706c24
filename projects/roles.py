"""What a person may be in a project."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    """Each role may do all that those after it may.

    ======  =====================================================
    owner   deletes the project, hands it on
    admin   manages members and API keys, reveals credentials
    member  creates, changes, tests and syncs connections
    viewer  reads; never a credential
    ======  =====================================================
    """

    OWNER = "owner", _("Owner")
    ADMIN = "admin", _("Admin")
    MEMBER = "member", _("Member")
    VIEWER = "viewer", _("Viewer")

    def includes(self, other: "Role") -> bool:
        """Say whether this role may do all that the other may."""
        order = list(Role)
        return order.index(self) <= order.index(other)

    @classmethod
    def including(cls, least: "Role") -> list["Role"]:
        """The roles that may do all that ``least`` may."""
        return [role for role in cls if role.includes(least)]
