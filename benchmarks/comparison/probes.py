"""How a question is asked: each writes or reads rows in one way, and says in a few words what
came of it."""

from collections.abc import Callable
from typing import Any

from benchmarks.comparison.subject import Subject

Probe = Callable[[Subject], str]
PROBES: dict[str, Probe] = {}

SECRET = "a secret text"
CLEAR = "stored in clear"
REFUSED = "refused"


def probe(question: str) -> Callable[[Probe], Probe]:
    def register(function: Probe) -> Probe:
        PROBES[question] = function
        return function

    return register


def raised(action: Callable[[], Any]) -> str:
    """How an action failed: an error that speaks of it is a refusal, a crash has its name."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  # whatever it is, the table says so
        name = type(error).__name__
        refusals = (
            "FieldError", "NotSupportedError", "EncryptionError", "ImproperlyConfigured",
            "FieldsealNotSupported",
        )  # fmt: skip
        return REFUSED if name in refusals else f"fails ({name})"
    return ""


def outcome(subject: Subject, row: Any, meant: str, action: Callable[[], Any]) -> str:
    """What came of writing `meant` to the row's secret by some way."""
    before = subject.raw(row)
    if error := raised(action):
        return error if subject.raw(row) == before else f"{error}, and the row changed"
    if subject.shows(meant, subject.raw(row)):
        return CLEAR
    return "works" if subject.read(row) == meant else "value lost"
