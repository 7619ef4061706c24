"""Keys to the REST API, and their life cycle."""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self

from django.conf import settings
from django.db import IntegrityError, connections, models, router, transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.utils import timezone

from apikeys import restrictions, tokens
from apikeys.models.event import Actor, ApiKeyEvent
from projects.acting import current_actor
from projects.models import Project


class ApiKeyStateError(Exception):
    """The key is not in a state in which this can be done; the code says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def listed(self) -> Self:
        """Without those that were deleted, whose rows are kept for the record."""
        return self.filter(deleted_at=None)

    def by_hash(self, key_hash: str) -> "ApiKey | None":
        """Find a key by its hash, with one query that the unique index answers.

        Every request with a key asks this. The SQL is the one that ``get()`` would build, which
        takes longer to build than to answer.
        """
        alias = self.db
        return next(iter(self.raw(_select_by_hash(alias), [key_hash], using=alias)), None)

    def issue(
        self,
        *,
        project: Project,
        name: str,
        scopes: Iterable[str],
        by: Actor,
        kind: tokens.Kind = "live",
        expires_at: datetime | None = None,
        allowed_networks: Iterable[str] = (),
        **fields: Any,
    ) -> tuple["ApiKey", tokens.Token]:
        """Create a key, and return it with the token that is to be shown, once.

        Raises:
            ValidationError: a restriction is not valid.
        """
        token = tokens.generate(kind)
        with transaction.atomic(using=router.db_for_write(self.model)):
            key = self.create(
                project=project,
                name=restrictions.clean_name(name),
                key_hash=token.hash,
                key_prefix=token.prefix,
                scopes=restrictions.clean_scopes(scopes),
                allowed_networks=restrictions.clean_networks(allowed_networks),
                created_by_id=None if by.user is None else by.user.pk,
                expires_at=restrictions.clean_expiry(expires_at),
                **fields,
            )
            key.record(ApiKeyEvent.Kind.CREATED, by, key.summary())
        return key, token


@lru_cache
def _select_by_hash(alias: str) -> str:
    quote = connections[alias].ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in ApiKey._meta.concrete_fields)
    return f"SELECT {columns} FROM {quote(ApiKey._meta.db_table)} WHERE key_hash = %s"  # noqa: S608


class ApiKey(models.Model):
    """A key to the REST API for one project. Only its hash is stored."""

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        EXPIRED = "expired", "Expired"
        REVOKED = "revoked", "Revoked"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=restrictions.NAME_LENGTH)
    key_hash = models.CharField("SHA-256 of the key", max_length=64, unique=True, editable=False)
    key_prefix = models.CharField("begins with", max_length=64, editable=False)
    scopes = models.JSONField(default=list)
    allowed_networks = models.JSONField(
        default=list, blank=True, help_text="Networks that it is accepted from; none means any."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="To the minute."
    )
    # One to one, so that the database itself allows no second successor.
    replaces = models.OneToOneField(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="successor",
    )

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ("-created_at", "-pk")
        indexes = [
            models.Index(fields=["project", "-created_at"], name="apikeys_project_created"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.key_prefix}...)"

    @property
    def kind(self) -> str:
        """``live`` or ``test``; ``imported`` for a key that has not this product's form."""
        return tokens.kind_of(self.key_prefix) or "imported"

    @property
    def status(self) -> "ApiKey.Status":
        if self.revoked_at is not None:
            return self.Status.REVOKED
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return self.Status.EXPIRED
        return self.Status.ACTIVE

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes

    def accepts_address(self, address: str) -> bool:
        """Whether the key may be used from a client's address."""
        return not self.allowed_networks or restrictions.is_within(address, self.allowed_networks)

    def summary(self) -> dict[str, Any]:
        """What of a key belongs into the record of its creation."""
        return {
            "name": self.name,
            "scopes": self.scopes,
            "allowed_networks": self.allowed_networks,
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }

    # -- life cycle ---------------------------------------------------------------------------

    def rename(self, name: str, *, by: Actor) -> None:
        """Give the key another name.

        Raises:
            ValidationError: the name is empty, too long or not one line.
        """
        name = restrictions.clean_name(name)
        with transaction.atomic(using=self._alias):
            key = self._locked()
            if key.name != name:
                key.record(ApiKeyEvent.Kind.RENAMED, by, {"from": key.name, "to": name})
                key.name = name
                key.save(update_fields=["name"])
        self.name = name

    def revoke(self, *, by: Actor) -> bool:
        """Make the key invalid from now on, and for good.

        Returns:
            Whether it was valid until now; revoking a key again changes nothing.
        """
        with transaction.atomic(using=self._alias):
            key = self._locked()
            if revoked := key.revoked_at is None:
                key.revoked_at = timezone.now()
                key.save(update_fields=["revoked_at"])
                key.record(ApiKeyEvent.Kind.REVOKED, by)
        self.revoked_at = key.revoked_at
        return revoked

    def remove(self, *, by: Actor) -> None:
        """Revoke the key and take it off the lists; its row is kept for the record."""
        with transaction.atomic(using=self._alias):
            key = self._locked()
            if key.deleted_at is None:
                key.revoke(by=by)
                key.deleted_at = timezone.now()
                key.save(update_fields=["deleted_at"])
                key.record(ApiKeyEvent.Kind.DELETED, by)
        self.revoked_at, self.deleted_at = key.revoked_at, key.deleted_at

    def rotate(
        self, overlap: timedelta, *, by: Actor, expires_at: datetime | None = None
    ) -> tuple["ApiKey", tokens.Token]:
        """Replace the key by a new one of this product's form that may do the same.

        Args:
            overlap: for how long this key stays valid, 0 to 7 days; never longer than it was.
            expires_at: when the new key expires. By default it is valid for as long as this one
                was when it was created.

        Raises:
            ApiKeyStateError: the key is revoked, expired or replaced already.
            ValidationError: the overlap or the expiry is not valid.
        """
        overlap = restrictions.clean_overlap(overlap)
        try:
            # In one transaction: if anything breaks in between, this key works on as it did.
            with transaction.atomic(using=self._alias):
                key = self._locked()
                key._require_rotatable()
                successor, token = key._succeed(expires_at, by)
                key._retire(overlap)
                key.record(
                    ApiKeyEvent.Kind.ROTATED,
                    by,
                    {"successor": str(successor.pk), "overlap_seconds": overlap.total_seconds()},
                )
        except IntegrityError:
            # A database without row locks lets two rotations come this far; one of them wins.
            raise _already_rotated() from None
        self.expires_at, self.revoked_at = key.expires_at, key.revoked_at
        return successor, token

    def _require_rotatable(self) -> None:
        if type(self).objects.filter(replaces=self).exists():
            raise _already_rotated()
        if self.status is not self.Status.ACTIVE:
            raise ApiKeyStateError(
                f"api_key_{self.status}",
                f"This key is {self.status} and is not replaced. Create a new one.",
            )

    def _succeed(self, expires_at: datetime | None, by: Actor) -> tuple["ApiKey", tokens.Token]:
        kind = tokens.kind_of(self.key_prefix)
        return type(self).objects.issue(
            project=self.project,
            name=self.name,
            scopes=self.scopes,
            by=by,
            kind="live" if kind is None else kind,
            expires_at=expires_at or self._renewed_expiry(),
            allowed_networks=self.allowed_networks,
            replaces=self,
        )

    def _renewed_expiry(self) -> datetime | None:
        latest = restrictions.default_expiry()
        if self.expires_at is None:
            return latest
        renewed = timezone.now() + (self.expires_at - self.created_at)
        return renewed if latest is None else min(renewed, latest)

    def _retire(self, overlap: timedelta) -> None:
        now = timezone.now()
        if not overlap:
            self.revoked_at = now
        elif self.expires_at is None or self.expires_at > now + overlap:
            self.expires_at = now + overlap
        self.save(update_fields=["revoked_at", "expires_at"])

    def record(
        self,
        kind: "ApiKeyEvent.Kind",
        by: Actor,
        details: dict[str, Any] | None = None,
        using: str | None = None,
    ) -> None:
        """Write down what was done to the key."""
        ApiKeyEvent.objects.using(using).create(
            kind=kind,
            actor=by.name,
            api_key_id=self.pk,
            project_id=self.project_id,
            key_prefix=self.key_prefix,
            details=details or {},
        )

    @property
    def _alias(self) -> str:
        return router.db_for_write(type(self), instance=self)

    def _locked(self) -> "ApiKey":
        """The row as it is now, and nobody else's to change until the transaction ends."""
        return type(self).objects.using(self._alias).select_for_update().get(pk=self.pk)


@receiver(pre_delete, sender=ApiKey, dispatch_uid="apikeys.deletion")
def _record_deletion(instance: ApiKey, using: str, **kwargs: Any) -> None:
    """Its row goes, as with its project; see :meth:`ApiKey.remove` for how a key alone goes."""
    if instance.deleted_at is None:
        by = Actor(current_actor())
        instance.record(ApiKeyEvent.Kind.DELETED, by, {"erased": True}, using)


def _already_rotated() -> ApiKeyStateError:
    return ApiKeyStateError(
        "api_key_rotated", "This key has a successor already. Rotate that one, or create a new key."
    )
