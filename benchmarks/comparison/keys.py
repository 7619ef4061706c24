"""What happens when keys change, over several processes with one database in a file."""

from django.core.management import call_command

from benchmarks.comparison.probes import SECRET, raised
from benchmarks.comparison.subject import UNREADABLE, Subject

OLDER = "rows under an older key, while both are set"
COMMAND = "a command that changes the key"
OTHER_SECRET_KEY = "another key of Django, which protects nothing and is known to all"


def write(subject: Subject) -> dict[str, str]:
    subject.make_tables()
    subject.new(secret=SECRET)
    return {}


def _only(subject: Subject) -> object:
    return subject.read(subject.row(pk=_pk(subject)))


def _pk(subject: Subject) -> object:
    return subject.row.objects.values_list("pk", flat=True).get()


def read_old(subject: Subject) -> dict[str, str]:
    """With the new key first and the old one behind it."""
    works = _only(subject) == SECRET
    return {OLDER: "readable" if works else "no setting for an older key"}


def rotate(subject: Subject) -> dict[str, str]:
    if not subject.package.rotation:
        return {COMMAND: "none"}
    if subject.package.app == "encryption":
        call_command("migrate", "encryption", verbosity=0)
    error = raised(lambda: call_command(subject.package.rotation, verbosity=0))
    return {COMMAND: error or "ends without an error"}


def read_rotated(subject: Subject) -> dict[str, str]:
    """With the new key alone, after `rotate`."""
    if not subject.package.rotation:
        return {}
    works = _only(subject) == SECRET
    return {COMMAND: "works" if works else "ends without an error, changes no row"}


def read_wrong(subject: Subject) -> dict[str, str]:
    """With a key that never was the row's: what is read, and what a save makes of it."""
    row = subject.row(pk=_pk(subject))
    token = subject.raw(row)
    read = _only(subject)
    said = "another value"
    if read == UNREADABLE:
        said = "an error"
    elif read == (token.decode("latin-1") if isinstance(token, bytes) else token):
        said = "the ciphertext, as the value"
    raised(lambda: subject.again(row).save())
    kept = subject.raw(row) == token
    return {
        "with a wrong key, a read gives": said,
        "and then `save()`": "leaves the row" if kept else "encrypts the ciphertext",
    }


def read_with_another_secret_key(subject: Subject) -> dict[str, str]:
    works = _only(subject) == SECRET
    return {"after a change of `SECRET_KEY` alone": "readable" if works else "unreadable"}


#: A step's function, its database, its keys, and whether Django's own key is another one.
STEPS = {
    "write": (write, "first", "A", False),
    "read_with_another_secret_key": (read_with_another_secret_key, "first", "A", True),
    "read_old": (read_old, "first", "BA", False),
    "read_wrong": (read_wrong, "first", "C", False),
    "write again": (write, "second", "A", False),
    "rotate": (rotate, "second", "BA", False),
    "read_rotated": (read_rotated, "second", "B", False),
}
