"""What may be changed about a connection: one set of rules for REST and for forms.

An error names the field and never repeats a value.
"""

from collections.abc import Mapping
from typing import Any

from connections.integrations.base import Integration
from connections.integrations.fields import SecretShapedError, refuse_secrets
from connections.models import Connection
from projects.strict import is_name

NEW_DESTINATION = "credentials_required_for_new_destination"
UNKNOWN = "unknown_field"

#: Where (``("config", "base_url")``, or ``("config",)`` for all of it), what for people, and what
#: in one word.
Problem = tuple[tuple[str, ...], str, str]


class InvalidChangeError(Exception):
    """Something cannot be changed so. ``problems`` are all that are wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{'.'.join(path)}: {code}" for path, _, code in problems))
        self.problems = problems


def name_problem(name: str) -> tuple[str, str] | None:
    """Say what is wrong with a connection's name, for people and in one word; ``None`` if nothing.

    It stands in logs and on terminals, too.
    """
    try:
        refuse_secrets(name)
    except SecretShapedError as error:
        return str(error), "secret_in_name"
    if not is_name(name):
        return "A name is one line of printable characters.", "unprintable"
    return None


def check_creation(
    integration: Integration, config: Mapping[str, Any], credentials: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the configuration of a new connection.

    Raises:
        InvalidChangeError: it or the credentials are not in order.
    """
    cleaned, problems = _clean_config(integration, config, {})
    problems += _credential_problems(integration, credentials)
    problems = problems or _missing(integration, credentials)
    if problems:
        raise InvalidChangeError(problems)
    return cleaned


def check_update(
    connection: Connection, config: Mapping[str, Any], credentials: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the changed configuration of a connection.

    Args:
        config: a key left out is kept, ``None`` removes it.
        credentials: a name left out is kept, ``None`` clears it.

    Raises:
        InvalidChangeError: the changes are not in order, or would send a stored credential to a
            place that it was not entered for.
    """
    integration = connection.integration
    if integration is None:
        changed = [n for n, given in (("config", config), ("credentials", credentials)) if given]
        if changed:
            text = "This service is not supported here."
            raise InvalidChangeError([((name,), text, "unsupported") for name in changed])
        return dict(connection.config)
    cleaned, problems = _clean_config(integration, config, connection.config)
    problems += _credential_problems(integration, credentials)
    readable = connection.has_readable_credentials()
    if not problems and not readable and any(credentials.values()):
        # Nothing can be kept, so what is sent has to be all that is needed.
        problems = _missing(integration, credentials)
    if not problems and integration.destination(cleaned) != integration.destination(
        connection.config
    ):
        problems = _sent_elsewhere(connection, integration, credentials, readable=readable)
    if problems:
        raise InvalidChangeError(problems)
    return cleaned


def _clean_config(
    integration: Integration, changes: Mapping[str, Any], stored: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    fields = {field.name: field for field in integration.config_fields}
    if not set(changes) <= set(fields):
        text = f"There are unknown keys. Known are: {', '.join(fields) or 'none'}."
        return {}, [(("config",), text, UNKNOWN)]
    config = {name: value for name, value in stored.items() if changes.get(name, value) is not None}
    problems: list[Problem] = []
    for name, value in changes.items():
        if value is None:
            continue
        try:
            config[name] = fields[name].clean(value)
        except ValueError as error:
            secret = isinstance(error, SecretShapedError)
            code = "secret_in_config" if secret else "invalid"
            problems.append((("config", name), str(error), code))
    for name, field in fields.items():
        if field.required and name not in config and changes.get(name) is None:
            problems.append((("config", name), "This field is required.", "required"))
    return config, problems


def _credential_problems(
    integration: Integration, changes: Mapping[str, str | None]
) -> list[Problem]:
    fields = {field.name: field for field in integration.credential_fields}
    if not set(changes) <= set(fields):
        text = f"There are unknown names. Known are: {', '.join(fields) or 'none'}."
        return [(("credentials",), text, UNKNOWN)]
    return [
        (("credentials", name), problem, "invalid")
        for name, value in changes.items()
        if value is not None and (problem := fields[name].problem(value))
    ]


def _missing(integration: Integration, changes: Mapping[str, str | None]) -> list[Problem]:
    given = {name: value for name, value in changes.items() if value is not None}
    return [
        (("credentials", name), "This field is required.", "required")
        for name in integration.missing(given)
    ]


def _sent_elsewhere(
    connection: Connection,
    integration: Integration,
    changes: Mapping[str, str | None],
    *,
    readable: bool,
) -> list[Problem]:
    """Say that stored credentials would go to a new place, if any would."""
    if readable:
        kept = [name for name in connection.usable_credentials() if name not in changes]
    else:
        # A key that comes back would make them readable again: they are replaced, or stay.
        kept = [] if changes else [field.name for field in integration.credential_fields]
    if not kept:
        return []
    text = (
        "The credentials would be sent to a new place. Enter all of them again, or clear them: "
        f"{', '.join(kept)}."
    )
    return [(("credentials",), text, NEW_DESTINATION)]
