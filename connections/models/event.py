"""Who did what with the credentials of a connection, and when. Never a value of one."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from connections.models.connection import Connection
from projects.acting import current_actor

#: The actor of what no person and no API key asked for.
WORKER = "worker"


class Action(models.TextChoices):
    CREATE = "create", _("Created")
    CHANGE = "change", _("Changed")
    CLEAR = "clear", _("Cleared")
    TEST = "test", _("Tested")
    REVEAL = "reveal", _("Revealed")
    IMPORT = "import", _("Imported")
    DELETE = "delete", _("Deleted")
    USE = "use", _("Used")


class CredentialEventQuerySet(models.QuerySet["CredentialEvent"]):
    def record(
        self,
        action: Action,
        connection: Connection,
        actor: str,
        names: Iterable[str] = (),
        reason: str = "",
    ) -> "CredentialEvent":
        """Write one event.

        Args:
            actor: "user:ID", "api-key:ID", :data:`WORKER`, or what ``current_actor`` says.
            names: the credential fields that it is about.
            reason: what a person gave as one.
        """
        return self.create(
            action=action,
            connection=None if action == Action.DELETE else connection,
            connection_ref=connection.pk,
            project_id=connection.project_id,
            connection_name=connection.name,
            actor=actor,
            names=sorted(names),
            reason=reason,
        )

    def count_use(self, connection: Connection, actor: str, now: datetime) -> None:
        """Count one use of the credentials: one row per connection, actor and hour."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        row = self.filter(connection_ref=connection.pk, actor=actor, hour=hour)
        if row.update(count=F("count") + 1):
            return
        try:
            with transaction.atomic():
                self.create(
                    action=Action.USE,
                    connection=connection,
                    connection_ref=connection.pk,
                    project_id=connection.project_id,
                    connection_name=connection.name,
                    actor=actor,
                    names=connection.credential_names,
                    at=hour,
                    hour=hour,
                )
        except IntegrityError:  # another worker was faster
            row.update(count=F("count") + 1)


class CredentialEvent(models.Model):
    """One thing that was done with credentials; for uses, how often within an hour.

    It outlives its connection and project, whose ids and name it keeps.
    """

    action = models.CharField(_("action"), max_length=10, choices=Action)
    actor = models.CharField(_("actor"), max_length=60)
    at = models.DateTimeField(_("at"), default=timezone.now)
    names = models.JSONField(_("fields"), default=list)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    count = models.PositiveIntegerField(_("count"), default=1)
    # Of what was recorded under a project that was gone by the time of version 0.1, NULL.
    project_id = models.UUIDField(_("project id"), null=True, db_index=True)
    connection = models.ForeignKey(
        Connection, models.SET_NULL, null=True, related_name="credential_events"
    )
    connection_ref = models.UUIDField(_("connection id"))
    connection_name = models.CharField(_("connection name"), max_length=100)
    hour = models.DateTimeField(null=True, editable=False)

    objects = CredentialEventQuerySet.as_manager()

    class Meta:
        verbose_name = _("credential event")
        verbose_name_plural = _("credential events")
        ordering = ("-at", "-pk")
        indexes: ClassVar = [models.Index(fields=["connection_ref", "-at"], name="events_of_one")]
        constraints: ClassVar = [
            # Only uses have an hour; NULLs are distinct from each other.
            models.UniqueConstraint(
                fields=["connection_ref", "actor", "hour"], name="one_count_of_uses_per_hour"
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_action_display()}: {self.connection_name}"


@receiver(pre_delete, sender=Connection, dispatch_uid="connections.deletion")
def _record_deletion(instance: Connection, using: str, **kwargs: Any) -> None:
    """However it is deleted: alone, with others, or with its project."""
    CredentialEvent.objects.using(using).record(
        Action.DELETE, instance, current_actor(), instance.credential_names
    )
