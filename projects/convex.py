"""Moving over from the original product: its snapshot export, its users and its projects.

An export is a folder with ``TABLE/documents.jsonl`` for each table: one JSON object per line, whose
``_id`` names it and whose ``_creationTime`` is in milliseconds since 1970. What each application
holds is read by a module of this name in it, all through an :class:`Import`.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.utils import timezone

from encryption import EncryptionError, decrypt
from projects.models import LegacyId, Project

User = get_user_model()
Document = Mapping[str, Any]


class UnreadableError(ValueError):
    """A document cannot be taken over. The message says why, and holds no value of it."""


@dataclass
class Import:
    """One run: what was done so far, and what could not be.

    Args:
        folder: of the export.
        imported, known: by table, how many documents were taken over now, and before.
        problems: table, id of the document (or its line) and reason.
        remarks: the same of what was taken over otherwise than it was.
    """

    folder: Path
    imported: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str, str]] = field(default_factory=list)

    def tables(self) -> list[str]:
        """The names of the tables that the folder holds."""
        return sorted(file.parent.name for file in self.folder.glob("*/documents.jsonl"))

    def documents(self, table: str) -> Iterator[Document]:
        """Yield the documents of a table; note the lines that are none."""
        file = self.folder / table / "documents.jsonl"
        if not file.is_file():
            return
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                document = _parsed(line)
                if document is not None:
                    yield document
                    continue
                problem = (table, f"line {number}", "it is no JSON object with an _id")
                if problem not in self.problems:  # a table may be read twice
                    self.problems.append(problem)

    def take(self, table: str, document: Document, make: Callable[[], Any]) -> None:
        """Take a document over, unless that was done before or cannot be.

        Args:
            table: under which name its id is remembered.
            make: writes and returns the object that it becomes, or raises
                :class:`UnreadableError`, an ``EncryptionError`` or a database error.
        """
        legacy_id = document["_id"]
        if self.local_id(table, legacy_id) is not None:
            self.known[table] += 1
            return
        try:
            with transaction.atomic():
                made = make()
                LegacyId.objects.create(table=table, legacy_id=legacy_id, local_id=str(made.pk))
        except (UnreadableError, EncryptionError) as error:
            reason = str(error)
        except ValidationError:
            reason = "a value is not valid"
        except (DatabaseError, TypeError, ValueError, OverflowError) as error:
            reason = f"it was refused with {type(error).__name__}"  # whose text may quote it
        else:
            self.imported[table] += 1
            return
        self.problems.append((table, legacy_id, reason))

    def local_id(self, table: str, legacy_id: Any) -> str | None:
        """What a document is called here; ``None`` if it was not taken over."""
        rows = LegacyId.objects.filter(table=table, legacy_id=str(legacy_id))
        return rows.values_list("local_id", flat=True).first()

    def reference(self, table: str, document: Document, name: str) -> str:
        """What the document that another one points to is called here.

        Raises:
            UnreadableError: it was not taken over.
        """
        found = self.local_id(table, document.get(name))
        if found is None:
            raise UnreadableError(f"its {name} is not among the {table} that were taken over")
        return found


def _parsed(line: bytes) -> Document | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(document, dict) and isinstance(document.get("_id"), str)
    return document if known and document["_id"] else None


def text(document: Document, name: str, default: str | None = None) -> str:
    """A text of a document.

    Raises:
        UnreadableError: it has none, and there is no default.
    """
    value = document.get(name, default)
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"its {name} is missing or no text")
    return value


def name(document: Document, key: str, length: int, default: str | None = None) -> str:
    """A name of a document as names are here: one line of printable characters, so long at most.

    Raises:
        UnreadableError: it has none, and there is no default.
    """
    value = text(document, key, default)
    words = "".join(one if one.isprintable() else " " for one in value).split()
    if not words:
        raise UnreadableError(f"its {key} has no printable character")
    return " ".join(words)[:length].rstrip()


def moment(document: Document, *names: str) -> datetime | None:
    """The first of these that a document has, as a moment; ``None`` if it has none of them.

    Raises:
        UnreadableError: it is no number of milliseconds since 1970.
    """
    for name in names:
        value = document.get(name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value):
            try:
                return datetime.fromtimestamp(value / 1000, UTC)
            except (ValueError, OverflowError, OSError):
                pass
        raise UnreadableError(f"its {name} is no moment")
    return None


def opened(document: Document, name: str, salt: str) -> str:
    """Decrypt a text that the original product encrypted for the tenant of an id of its own.

    Raises:
        UnreadableError: there is none.
        DecryptionError: it cannot be decrypted with the keys of this installation.
    """
    return decrypt(text(document, name), salt)


def import_users(run: Import) -> None:
    """Take the users over. A user here who alone has the same e-mail address is the same person.

    New ones have no password: they ask for one, or log in some other way.
    """
    for document in run.documents("users"):
        run.take("users", document, lambda document=document: _user(document))  # type: ignore[misc]


def _user(document: Document) -> Any:
    email = document.get("email") or ""
    if not isinstance(email, str):
        raise UnreadableError("its email is no text")
    same = list(User.objects.filter(email__iexact=email)[:2]) if email else []
    if len(same) > 1:
        raise UnreadableError("several users here have its e-mail address")
    if same:
        return same[0]
    first, _, rest = _full_name(document).partition(" ")
    user = User(
        username=_free_username(email or f"user-{document['_id']}"),
        email=email,
        first_name=first[:150],
        last_name=rest[:150],
        date_joined=moment(document, "createdAt", "_creationTime") or timezone.now(),
    )
    user.set_unusable_password()
    user.full_clean(exclude=["password"])
    user.save()
    return user


def _full_name(document: Document) -> str:
    try:
        return name(document, "name", 301)
    except UnreadableError:
        return ""


def _free_username(wanted: str) -> str:
    base, number = wanted[:140], 1
    username = base
    while User.objects.filter(username=username).exists():
        number += 1
        username = f"{base}-{number}"
    return username


def import_projects(run: Import) -> None:
    """Take the projects over, each with its owner as the one member."""
    for document in run.documents("projects"):
        run.take("projects", document, lambda document=document: _project(run, document))  # type: ignore[misc]


def _project(run: Import, document: Document) -> Project:
    owner_id = int(run.reference("users", document, "ownerId"))
    if not User.objects.filter(pk=owner_id).exists():
        raise UnreadableError("its owner was deleted here")
    project = Project(name=name(document, "name", 200), owner_id=owner_id)
    project.save()
    created = moment(document, "createdAt", "_creationTime") or project.created_at
    updated = moment(document, "updatedAt") or created
    Project.objects.filter(pk=project.pk).update(created_at=created, updated_at=updated)
    return project
