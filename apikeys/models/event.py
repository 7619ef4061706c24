"""The record of what was done to API keys."""

from dataclasses import dataclass
from typing import Any, Self

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.utils import timezone


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes a key: the user, and the name that the record gives them."""

    name: str
    user: AbstractBaseUser | None = None

    @classmethod
    def of_user(cls, user: AbstractBaseUser | AnonymousUser) -> Self:
        """The user of a request that somebody logged in for."""
        return cls(f"user:{user.pk}", None if isinstance(user, AnonymousUser) else user)


class ApiKeyEvent(models.Model):
    """The record of what was done to keys. It outlives the key, the project and the user, so it
    names them without referring to them; it holds nothing that could be used as a key."""

    class Kind(models.TextChoices):
        CREATED = "created", "Created"
        RENAMED = "renamed", "Renamed"
        ROTATED = "rotated", "Rotated"
        REVOKED = "revoked", "Revoked"
        DELETED = "deleted", "Deleted"

    at = models.DateTimeField(default=timezone.now, editable=False)
    kind = models.CharField(max_length=10, choices=Kind, editable=False)
    actor = models.CharField(max_length=100, editable=False)
    api_key_id = models.UUIDField("API key", editable=False, db_index=True)
    project_id = models.UUIDField("project", editable=False, db_index=True)
    key_prefix = models.CharField(max_length=64, editable=False)
    details = models.JSONField(default=dict, editable=False)

    class Meta:
        verbose_name = "API key event"
        ordering = ("-at", "-pk")

    def __str__(self) -> str:
        return f"{self.key_prefix} {self.kind}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the event.

        Raises:
            TypeError: it was added before; the record is not rewritten.
        """
        if not self._state.adding:
            raise TypeError("an event is written once")
        super().save(*args, **kwargs)
