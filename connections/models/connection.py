"""A connection: a project's access to another service."""

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from connections.conf import get_settings
from connections.integrations import registry
from connections.integrations.base import Integration
from encryption import DecryptionError
from encryption.descriptors import UNREAD
from encryption.fields import BlindIndexField, EncryptedJSONField
from encryption.managers import EncryptedManager, EncryptedQuerySet
from projects.models import Project

#: A failure costs this much of the health score, and a success restores all of it.
FAILURE_COST = 25
FULL_HEALTH = 100
#: After so many failures in a row a connection's status is error. One that only a person can mend
#: (refused credentials, a wrong host) makes it so at once.
FAILURES_UNTIL_ERROR = 3


class Status(models.TextChoices):
    ACTIVE = "active", _("Active")
    PAUSED = "paused", _("Paused")
    ERROR = "error", _("Error")


def _with_names(fields: Iterable[str]) -> list[str]:
    """What is written together with the credentials is which of them are set."""
    names = list(fields)
    return [*names, "credential_names"] if "credentials" in names else names


if TYPE_CHECKING:
    BaseQuerySet = models.QuerySet["Connection"]
else:
    BaseQuerySet = EncryptedQuerySet


class ConnectionQuerySet(BaseQuerySet):
    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """As Django's, with the names of the credentials that are set; see :meth:`note_names`."""
        rows = list(objs)
        for connection in rows:
            connection.note_names()
        if kwargs.get("update_fields") is not None:
            kwargs["update_fields"] = _with_names(kwargs["update_fields"])
        return list(super().bulk_create(rows, *args, **kwargs))

    def bulk_update(
        self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """As Django's, with the names of the credentials that are set; see :meth:`note_names`."""
        rows, names = list(objs), list(fields)
        if "credentials" in names:
            for connection in rows:
                connection.note_names()
        return int(super().bulk_update(rows, _with_names(names), batch_size))

    def sharing_credentials(self) -> "ConnectionQuerySet":
        """Those among these that hold the very same credentials as another one of these."""
        twice = self.order_by().values("credentials_index").annotate(rows=models.Count("pk"))
        return self.filter(
            credentials_index__in=twice.filter(rows__gt=1).values("credentials_index")
        )

    def due(self, now: datetime) -> "ConnectionQuerySet":
        """Those to sync: not paused, not tried within the interval, and held by no worker."""
        since = now - timedelta(seconds=get_settings().sync_interval)
        return self.exclude(status=Status.PAUSED).filter(
            Q(last_tried_at=None) | Q(last_tried_at__lte=since), self._free(now)
        )

    def claim(self, pk: uuid.UUID, now: datetime) -> uuid.UUID | None:
        """Take a connection for one sync, and return the token to give it back with.

        One worker at a time gets it. A worker that dies keeps it until its lease ends.

        Returns:
            ``None`` if another worker holds it, or it does not exist.
        """
        token = uuid.uuid4()
        taken = self.filter(self._free(now), pk=pk).update(
            lease_token=token, lease_until=now + get_settings().lease
        )
        return token if taken else None

    def held(self, pk: uuid.UUID, token: uuid.UUID) -> "ConnectionQuerySet":
        """The connection, for as long as a worker's lease is still its own."""
        return self.filter(pk=pk, lease_token=token)

    @staticmethod
    def _free(now: datetime) -> Q:
        return Q(lease_until=None) | Q(lease_until__lte=now)


class ConnectionManager(EncryptedManager.from_queryset(ConnectionQuerySet)):  # type: ignore[misc]
    """See :class:`ConnectionQuerySet`."""


def credentials_to_find(credentials: Any) -> Any:
    """What connections are compared by: credentials of which none is set equal no others."""
    if not isinstance(credentials, dict):
        return None
    return {name: value for name, value in credentials.items() if value} or None


class Connection(models.Model):
    """A project's access to another service.

    ``config`` is seen by whoever may read the connection; ``credentials`` are a JSON object,
    encrypted under the project's key and bound to this row. ``credential_names`` tells which of
    them are set, so that lists need not decrypt.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="connections")
    service = models.CharField(_("service"), max_length=50)
    name = models.CharField(_("name"), max_length=100)
    config = models.JSONField(_("configuration"), default=dict, blank=True)
    credentials = EncryptedJSONField(salt_field="project", bound_to=("id",), default=dict)
    # Across projects, so that whoever owns several learns where one secret is used twice.
    credentials_index = BlindIndexField(
        "credentials", scope="global", normalize="connections.models.connection.credentials_to_find"
    )
    credential_names = models.JSONField(default=list, editable=False)
    status = models.CharField(_("status"), max_length=10, choices=Status, default=Status.ACTIVE)
    health_score = models.PositiveSmallIntegerField(
        _("health"),
        default=FULL_HEALTH,
        validators=[MinValueValidator(0), MaxValueValidator(FULL_HEALTH)],
    )
    failures = models.PositiveIntegerField(_("failures in a row"), default=0, editable=False)
    last_error = models.CharField(_("last error"), max_length=50, default="", editable=False)
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)
    updated_at = models.DateTimeField(_("updated at"), default=timezone.now, editable=False)
    last_synced_at = models.DateTimeField(_("last synced at"), null=True, editable=False)
    last_tried_at = models.DateTimeField(_("last tried at"), null=True, editable=False)
    lease_until = models.DateTimeField(null=True, editable=False)
    lease_token = models.UUIDField(null=True, editable=False)

    objects = ConnectionManager()

    class Meta:
        verbose_name = _("connection")
        verbose_name_plural = _("connections")
        indexes: ClassVar = [
            models.Index(fields=["project", "-created_at"], name="connections_of_project"),
            models.Index(fields=["status", "last_tried_at"], name="connections_due"),
        ]
        permissions: ClassVar = [("reveal_credentials", _("Can be shown stored credentials"))]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; where the credentials were read or assigned, note which of them are set."""
        if self.note_names() and kwargs.get("update_fields") is not None:
            kwargs["update_fields"] = _with_names(kwargs["update_fields"])
        super().save(*args, **kwargs)

    def note_names(self) -> bool:
        """Note which credentials are set, where they were read or assigned; decrypts nothing.

        Returns:
            Whether it is known.
        """
        secret = self.__dict__.get("credentials")
        if secret is None or secret._value is UNREAD:
            return False
        self.credential_names = self.names_set()
        return True

    # -- the service --------------------------------------------------------------------------

    @property
    def integration(self) -> Integration | None:
        """What the service is; ``None`` where this installation does not know it."""
        return registry.get(self.service)

    def credential_fields(self) -> dict[str, dict[str, bool]]:
        """For each credential that the service has, whether it is set. Decrypts nothing."""
        integration = self.integration
        if integration is None:
            return {}
        return {
            field.name: {"set": field.name in self.credential_names}
            for field in integration.credential_fields
        }

    def names_set(self) -> list[str]:
        """Decrypt the credentials and tell which of those that the service has are set.

        Of a service that this installation does not know none is named: what is a name there and
        what a secret, nobody can tell.

        Raises:
            DecryptionError: they cannot be read.
        """
        integration = self.integration
        return [] if integration is None else sorted(integration.credentials_from(self.credentials))

    # -- the credentials ----------------------------------------------------------------------

    def usable_credentials(self) -> dict[str, str]:
        """Decrypt the credentials that the service knows, under its own names for them.

        Raises:
            DecryptionError: they cannot be read.
            LookupError: this installation does not know the service.
        """
        integration = self.integration
        if integration is None:
            raise LookupError(self.service)
        return integration.credentials_from(self.credentials)

    def has_readable_credentials(self) -> bool:
        """Say whether the credentials can be decrypted."""
        try:
            return self.credentials is not None
        except DecryptionError:
            return False

    def with_same_credentials(self) -> "ConnectionQuerySet":
        """The other connections, of all projects, that hold the very same credentials."""
        others: ConnectionQuerySet = Connection.objects.none()
        try:
            credentials = self.credentials
        except DecryptionError:
            return others
        if credentials_to_find(credentials) is not None:
            others = Connection.objects.filter(credentials=credentials).exclude(pk=self.pk)
        return others

    def change_credentials(self, changes: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
        """Replace and clear single credentials; those not named are kept. Does not save.

        Credentials that cannot be decrypted cannot be kept either: the changes are then all that
        there is.

        Args:
            changes: names of the service's credential fields; ``None`` clears one.

        Returns:
            The names that were set, and those that were cleared.
        """
        integration = self.integration
        aliases = (
            {}
            if integration is None
            else {field.name: field.legacy for field in integration.credential_fields}
        )
        stored = dict(self.credentials or {}) if self.has_readable_credentials() else {}
        for name, value in changes.items():
            stored.pop(name, None)
            stored.pop(aliases.get(name, ""), None)
            if value is not None:
                stored[name] = value
        self.credentials = stored
        changed = [name for name, value in changes.items() if value is not None]
        cleared = [name for name, value in changes.items() if value is None]
        return changed, cleared
