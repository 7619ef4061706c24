"""One package in one process: ``python -m benchmarks.comparison.process NAME STEP FOLDER``.

Prints what was found as JSON, question by question.
"""

import json
import sys
from pathlib import Path

from django.db import connection

from benchmarks.comparison import reading, showing, writing
from benchmarks.comparison.keys import OTHER_SECRET_KEY, STEPS, write
from benchmarks.comparison.probes import PROBES
from benchmarks.comparison.subject import SECRET_KEY, Subject, configure

#: Importing these is what fills PROBES, in this order.
GROUPS = (writing, reading, showing)
#: The step after which a database is not needed any more.
LAST = {database: title for title, (_, database, _, _) in STEPS.items()}
KEYS = {letter: letter.lower() * 64 for letter in "ABC"}


def drop() -> None:
    """Drop the database, where there is a server that keeps it."""
    if connection.vendor == "postgresql":
        connection.close()
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {_quoted()} WITH (FORCE)")


def start_afresh() -> None:
    """Make the database of a server anew."""
    drop()
    if connection.vendor == "postgresql":
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {_quoted()}")


def _quoted() -> str:
    return str(connection.ops.quote_name(connection.settings_dict["NAME"]))


def everything(name: str, folder: Path) -> dict[str, str]:
    subject = Subject(configure(name, [KEYS["A"]], folder, ":memory:", SECRET_KEY))
    start_afresh()
    subject.make_tables()
    found = {}
    for question, ask in PROBES.items():
        subject.row.objects.all()._raw_delete("default")
        try:
            found[question] = ask(subject)
        except Exception as error:  # noqa: BLE001  # whatever it is, the table says so
            found[question] = f"fails ({type(error).__name__})"
    marker = Path(sys.modules[subject.package.module].__file__ or "").parent / "py.typed"
    drop()
    return found | {"type annotations (`py.typed`)": "yes" if marker.exists() else "no"}


def step(name: str, title: str, folder: Path) -> dict[str, str]:
    function, database, letters, another = STEPS[title]
    secret_key = OTHER_SECRET_KEY if another else SECRET_KEY
    keys = [KEYS[letter] for letter in letters]
    subject = Subject(configure(name, keys, folder, str(folder / database), secret_key))
    if function is write:
        start_afresh()
    found: dict[str, str] = function(subject)
    connection.close()
    if title == LAST[database]:
        drop()
    return found


if __name__ == "__main__":
    name, title, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    found = everything(name, folder) if title == "everything" else step(name, title, folder)
    print(json.dumps(found))
