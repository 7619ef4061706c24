"""``manage.py erase_project``: a tenant and all that is encrypted for it."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import ngettext

from apikeys.erasure import Erasure, erase_project
from apikeys.management import arguments


class EraseCommand(BaseCommand):
    """What the commands that erase a tenant have in common."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="List what would be erased, and erase nothing."
        )
        parser.add_argument(
            "--noinput", action="store_true", help="Ask nothing: what is erased is lost."
        )

    def confirm(self, what: str, options: dict[str, Any]) -> None:
        """Ask before erasing, unless it was said not to.

        Raises:
            CommandError: the answer is not yes.
        """
        if options["dry_run"] or options["noinput"]:
            return
        try:
            answer = input(f"This erases {what}, for good. Type 'yes' to go on: ")
        except EOFError:
            answer = ""
        if answer != "yes":
            raise CommandError("Nothing was erased.")

    def tell(self, done: Erasure, options: dict[str, Any]) -> None:
        """Print what was erased.

        Raises:
            CommandError: something is left.
        """
        verb = "would be erased" if options["dry_run"] else "erased"
        for (alias, label), count in sorted(done.values.items()):
            values = ngettext("encrypted value", "encrypted values", count)
            self.stdout.write(f"{label} [{alias}]: {count} {values} {verb}")
        for label, count in sorted(done.rows.items()):
            if count:
                self.stdout.write(f"{label}: {count} {ngettext('row', 'rows', count)} {verb}")
        if done.left:
            raise CommandError(
                ngettext(
                    "%d encrypted value was written meanwhile and is left: run it again.",
                    "%d encrypted values were written meanwhile and are left: run it again.",
                    done.left,
                )
                % done.left
            )
        if not options["dry_run"]:
            self.stdout.write(
                "Nothing encrypted is left. Backups still hold it until they are replaced."
            )


class Command(EraseCommand):
    help = (
        "Erase a project: everything that is encrypted for it, in every table and database, and "
        "all that belongs to it. The record of what was done with its keys and credentials stays, "
        "without any secret."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", type=arguments.project, metavar="PROJECT", help="Its id.")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        project = options["project"]
        self.confirm(f"the project {project} ({project.pk})", options)
        self.tell(erase_project(project, dry_run=options["dry_run"]), options)
