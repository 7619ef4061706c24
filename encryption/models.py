"""The record of each rotation: who, when, what, and what could not be read. Never a secret."""

from datetime import timedelta
from typing import Final

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

#: A run writes its record every second or page: one that is silent for longer was killed or hangs.
SILENT_AFTER: Final = timedelta(minutes=5)


class RotationRun(models.Model):
    """One run of ``rotate_master_key``, written while it goes on.

    A run over Celery has a record for each of its tasks too, which is ``part_of`` the run's.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        INCOMPLETE = "incomplete", _("rows left or failed")
        STOPPED = "stopped", _("stopped")
        FAILED = "failed", _("ended by an error")

    started_at = models.DateTimeField(_("started"), auto_now_add=True)
    updated_at = models.DateTimeField(_("last sign of life"), auto_now=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    started_by = models.CharField(
        _("started by"), max_length=200, help_text=_("User and host, or the name of the task.")
    )
    status = models.CharField(
        _("status"), max_length=20, choices=Status.choices, default=Status.RUNNING
    )
    dry_run = models.BooleanField(_("dry run"), default=False)
    to_key_id = models.CharField(_("to key"), max_length=8)
    from_key_ids = models.JSONField(
        _("from keys"), default=list, help_text=_("Key ids that rows were under; v1 names none.")
    )
    write_format = models.CharField(_("format"), max_length=2)
    columns = models.JSONField(
        _("columns"), default=list, help_text=_("Counts for each column and database.")
    )
    failures = models.JSONField(
        _("failures"), default=list, help_text=_("Model, primary key, field and reason.")
    )
    part_of = models.ForeignKey(
        "self", models.CASCADE, null=True, blank=True, related_name="parts", editable=False
    )
    scope = models.JSONField(
        _("scope"),
        null=True,
        blank=True,
        help_text=_("For a part: its column, database, range of primary keys and pace."),
    )

    class Meta:
        verbose_name = _("rotation run")
        verbose_name_plural = _("rotation runs")
        ordering = ("-started_at", "-pk")
        permissions = (("view_status", _("Can see the encryption status")),)

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M} {self.status}"

    @property
    def is_silent(self) -> bool:
        """Whether it should be running and has given no sign of life: killed, or hanging."""
        running = self.status == self.Status.RUNNING
        return running and timezone.now() - self.updated_at > SILENT_AFTER
