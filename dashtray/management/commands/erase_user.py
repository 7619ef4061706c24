"""``manage.py erase_user``: a user and all that is encrypted for them."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser

from apikeys.erasure import OwnsProjectsError, erase_user
from dashtray.management.commands.erase_project import EraseCommand


class Command(EraseCommand):
    help = (
        "Erase a user: everything that is encrypted for them, in every table and database, and "
        "their account. The record of what was done with keys and credentials stays; it names the "
        "user by number and holds no secret."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--with-projects",
            action="store_true",
            help="Also erase the projects that the user owns, for all of their members.",
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()
        try:
            user = users._default_manager.get_by_natural_key(options["username"])
        except users.DoesNotExist:
            raise CommandError("There is no user of this name.", returncode=2) from None
        self.confirm(f"the user {user.get_username()} (number {user.pk})", options)
        try:
            done = erase_user(
                user, with_projects=options["with_projects"], dry_run=options["dry_run"]
            )
        except OwnsProjectsError as error:
            for project in error.projects:
                self.stderr.write(f"owns {project} ({project.pk})")
            raise CommandError(
                "The user owns projects. Give these to somebody else first, or erase them too "
                "with --with-projects."
            ) from None
        self.tell(done, options)
