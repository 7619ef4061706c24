"""``manage.py create_api_key``: a new key, printed once."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apikeys import restrictions, tokens
from apikeys.management import arguments
from apikeys.models import Actor, ApiKey
from apikeys.scopes import Scope

ACTOR = Actor("command")


class Command(BaseCommand):
    help = (
        "Create an API key for a project. The key alone goes to the standard output, once; what "
        "is known of it goes to the standard error."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", type=arguments.project, metavar="PROJECT", help="Its id.")
        parser.add_argument("--name", required=True, type=arguments.no_key, help="For people.")
        parser.add_argument(
            "--scope",
            action="append",
            required=True,
            dest="scopes",
            metavar="SCOPE",
            help=f"What it may do; again for each of {', '.join(Scope.values)}.",
        )
        parser.add_argument("--kind", choices=tokens.KINDS, default="live")
        parser.add_argument(
            "--network",
            action="append",
            default=[],
            dest="networks",
            metavar="CIDR",
            help="Where it is accepted from; again for each network. Without it: from anywhere.",
        )
        expiry = parser.add_mutually_exclusive_group()
        expiry.add_argument("--expires-at", type=arguments.moment, metavar="TIME")
        expiry.add_argument("--expires-in-days", type=arguments.days, metavar="DAYS")

    def handle(self, *args: Any, **options: Any) -> None:
        expires_at = options["expires_at"]
        if options["expires_in_days"] is not None:
            expires_at = timezone.now() + options["expires_in_days"]
        try:
            key, token = ApiKey.objects.issue(
                project=options["project"],
                name=options["name"],
                scopes=options["scopes"],
                by=ACTOR,
                kind=options["kind"],
                expires_at=expires_at or restrictions.default_expiry(),
                allowed_networks=options["networks"],
            )
        except ValidationError as error:
            raise CommandError(arguments.one_line(error), returncode=2) from None
        expires = "never" if key.expires_at is None else f"at {key.expires_at.isoformat()}"
        self.stderr.write(f"API key {key.pk} of {key.project}; it expires {expires}.")
        try:
            self.stdout.write(token.plaintext)
            self.stdout.flush()
        except OSError:
            key.revoke(by=ACTOR)
            raise CommandError("The key could not be printed, and is revoked.") from None
