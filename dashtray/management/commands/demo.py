"""Demonstration data: people, projects, connections and an AI key, all made up."""

import os
import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from apikeys.models import AIKey
from connections.models import Connection
from projects.models import Membership, Project
from projects.roles import Role

# Per project: its connections as service, name, config and the names of their credentials.
PROJECTS: dict[str, list[tuple[str, str, dict[str, Any], tuple[str, ...]]]] = {
    "Storefront": [
        ("stripe", "Payments", {}, ("api_key",)),
        ("github", "Shop code", {"owner": "example", "repositories": ["shop"]}, ("token",)),
    ],
    "Platform": [
        (
            "prometheus",
            "Cluster metrics",
            {"base_url": "https://prometheus.example", "queries": {"up": "sum(up)"}},
            ("username", "password"),
        ),
    ],
}


class Command(BaseCommand):
    help = (
        "Create a superuser `admin` and a member of staff `support`, whose password is "
        "DEMO_PASSWORD, with two projects and made-up credentials. What is already there stays."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("Demonstration data has a known superuser; set DEBUG=true for it.")
        password = os.environ.get("DEMO_PASSWORD", "")
        if not password:
            raise CommandError(
                "DEMO_PASSWORD is not set. Add it to .env, or let `python -m dashtray.environment` "
                "write a new .env."
            )
        with transaction.atomic():
            admin = person("admin", password, is_superuser=True)
            support = person("support", password)
            support.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
            for name, connections in PROJECTS.items():
                fill(project(name, admin, support), connections)
            AIKey.objects.get_or_create(
                user=admin, provider="openai", defaults={"api_key": made_up_secret()}
            )
        # The log-in of a demonstration on this machine only, which whoever started it has to see.
        self.stdout.write(f"Log in as admin or support; the password is {password}")


def made_up_secret() -> str:
    return f"made-up-{secrets.token_urlsafe(24)}"


def person(username: str, password: str, *, is_superuser: bool = False) -> User:
    user, _ = User.objects.get_or_create(
        username=username, defaults={"is_staff": True, "is_superuser": is_superuser}
    )
    # The one in .env is the one that works, also where .env is newer than the database.
    if not user.check_password(password):
        user.set_password(password)
        user.save(update_fields=["password"])
    return user


def project(name: str, owner: User, viewer: User) -> Project:
    found, _ = Project.objects.get_or_create(name=name, owner=owner)
    Membership.objects.get_or_create(project=found, user=viewer, defaults={"role": Role.VIEWER})
    return found


def fill(
    project: Project, connections: list[tuple[str, str, dict[str, Any], tuple[str, ...]]]
) -> None:
    for service, name, config, credentials in connections:
        Connection.objects.get_or_create(
            project=project,
            name=name,
            defaults={
                "service": service,
                "config": config,
                "credentials": {key: made_up_secret() for key in credentials},
            },
        )
