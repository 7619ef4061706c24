"""What the commands take. No message repeats an argument: it may be a key."""

import argparse
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from apikeys import tokens
from projects.models import Project

Value = TypeVar("Value")


def _quiet(parse: Callable[[str], Value], text: str, problem: str) -> Value:
    try:
        return parse(text)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(problem)


def project(text: str) -> Project:
    """A project by its id."""
    project_id = _quiet(UUID, text, "a project is named by its id")
    found = Project.objects.filter(pk=project_id).first()
    if found is None:
        raise argparse.ArgumentTypeError("there is no project with this id")
    return found


def moment(text: str) -> datetime:
    """A time with its offset from UTC, in ISO 8601."""
    parsed = _quiet(parse_datetime, text, "there is no such time")
    if parsed is None or timezone.is_naive(parsed):
        raise argparse.ArgumentTypeError("write a time as 2030-01-31T12:00:00Z")
    return parsed


def days(text: str) -> timedelta:
    """A number of days."""
    return _quiet(lambda number: timedelta(days=int(number)), text, "write a number of days")


def no_key(text: str) -> str:
    """Anything but a key, which a command line would keep in the shell's history."""
    if tokens.contains_key(text) or tokens.has_shape(text):
        raise argparse.ArgumentTypeError(
            "this is a key, and now it stands in the history of your shell and in the list of "
            "processes. Name a key by its id or by what it begins with, or pipe it in and use "
            "--stdin"
        )
    return text


def one_line(error: ValidationError) -> str:
    """The messages of an error as one text."""
    return " ".join(error.messages)
