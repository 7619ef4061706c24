"""Erasing a tenant: all that is encrypted for it, in every table, and then the tenant itself.

What belongs to a tenant is found by the encrypted fields' own ``salt_field``, so that a model that
is added later is erased too.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import FieldDoesNotExist
from django.db import models, router, transaction

from encryption.registry import EncryptedColumn, databases_of, encrypted_columns
from projects.acting import acting
from projects.models import Project

#: The encrypted values of a tenant in one column of one database.
Values = tuple[EncryptedColumn, str, "models.QuerySet[Any]"]


class OwnsProjectsError(Exception):
    """A user owns projects, which others may use; ``projects`` are these."""

    def __init__(self, projects: list[Project]) -> None:
        super().__init__("The user owns projects.")
        self.projects = projects


@dataclass
class Erasure:
    """What was erased, or would be."""

    #: Encrypted values, by database and column.
    values: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Rows of all kinds, by model.
    rows: Counter[str] = field(default_factory=Counter)
    #: Encrypted values that are there still.
    left: int = 0


def encrypted_for(tenant: models.Model) -> Iterator[Values]:
    """Find what is encrypted for a project or a user, wherever it is."""
    kind = tenant._meta.concrete_model
    for column in encrypted_columns():
        try:
            salt = column.model._meta.get_field(column.field.salt_field)
        except FieldDoesNotExist:  # which a system check reports
            continue
        target = salt.related_model
        if not isinstance(target, type) or target._meta.concrete_model is not kind:
            continue
        for alias in databases_of(column):
            rows = column.model._base_manager.using(alias).filter(**{salt.name: tenant.pk})
            yield column, alias, rows.exclude(**{column.field.name: None})


def erase_project(project: Project, *, dry_run: bool = False) -> Erasure:
    """Erase a project with all that belongs to it.

    The records of its connections and API keys stay; they name no secret.
    """
    return _erase([project], dry_run=dry_run)


def erase_user(
    user: AbstractBaseUser, *, with_projects: bool = False, dry_run: bool = False
) -> Erasure:
    """Erase a user with all that is encrypted for them.

    Args:
        with_projects: also the projects that they own.

    Raises:
        OwnsProjectsError: they own projects, and nothing was said of these.
    """
    projects = list(Project.objects.filter(owner=user.pk))
    if projects and not with_projects:
        raise OwnsProjectsError(projects)
    return _erase([*projects, user], dry_run=dry_run)


@acting("command")
def _erase(tenants: list[Any], *, dry_run: bool) -> Erasure:
    """Erase tenants, all of them or none; a dry run does it too, and takes it back."""
    done = Erasure()
    values = [one for tenant in tenants for one in encrypted_for(tenant)]
    for column, alias, rows in values:
        done.values[alias, column.label] += rows.count()
    home = router.db_for_write(Project)
    if not dry_run:
        # First, so that whatever stops this can be followed by another try: the tenant is there.
        for _column, alias, rows in values:
            if alias != home:
                done.rows.update(rows.delete()[1])
    with transaction.atomic(using=home):
        for _column, alias, rows in values:
            if alias == home:
                done.rows.update(rows.delete()[1])
        for tenant in tenants:
            done.rows.update(tenant.delete(using=home)[1])
        if dry_run:
            transaction.set_rollback(True, using=home)
    if not dry_run:
        done.left = sum(rows.count() for _column, _alias, rows in values)
    return done
