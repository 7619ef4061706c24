"""What ``Keyring.decrypt`` promises, for any input: the exact plaintext, or the right error.

The first byte of an input says for which of the subjects it is (a vector of another
implementation: its salt, context and bound values), the rest is what the column holds. With the
highest bit of the first byte set, the rest is instead encrypted here under the subject's own key,
which no attacker has, and must come back exactly.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from encryption.core.derivation import MasterKey, derive_tenant, keyed
from encryption.core.errors import (
    DecryptionError,
    MalformedTokenError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
)
from encryption.core.keyring import Keyring
from encryption.core.tokens import associated_data
from fuzz import reference

#: Salt, context and bound values.
Place = tuple[str, str, tuple[str | None, ...]]

SEALED = 0x80
#: A message may quote as much of a text: "v2:", a key id and a colon.
_LONGEST_PREFIX = 12
_IV = bytes(12)


@dataclass(frozen=True)
class Subject:
    """One value that was written, and all that is needed to read it."""

    token: str
    plaintext: str
    master: str
    salt: str
    context: str = ""
    bound_to: tuple[str | None, ...] = ()

    @property
    def version(self) -> str:
        """The format of its token."""
        return "v2" if self.token.startswith("v2:") else "v1"


def _subjects() -> list[Subject]:
    data = Path(__file__).parents[1] / "tests" / "data"
    v1 = json.loads((data / "v1.json").read_text(encoding="utf-8"))["vectors"]
    v2 = json.loads((data / "v2.json").read_text(encoding="utf-8"))["vectors"]
    return [Subject(one["stored"], one["plaintext"], one["master"], one["salt"]) for one in v1] + [
        Subject(
            one["token"],
            one["plaintext"],
            one["master"],
            one["salt"],
            one["context"],
            tuple(one["bound_to"]),
        )
        for one in v2
    ]


SUBJECTS = _subjects()
_MASTERS = {one.master: MasterKey(one.master) for one in SUBJECTS}
_PRIMARY, *_FALLBACKS = _MASTERS.values()
RING = Keyring(_PRIMARY, _FALLBACKS)
_ONLY_V2 = Keyring(_PRIMARY, _FALLBACKS, read_formats=["v2"])
_ONLY_V1 = Keyring(_PRIMARY, _FALLBACKS, write_format="v1", read_formats=["v1"])

#: What is right to accept: the place of a value, and its token there.
_WRITTEN = {
    (one.salt, one.context, one.bound_to, one.token): one.plaintext for one in SUBJECTS
} | {  # v1 tokens know no context
    (one.salt, other.context, other.bound_to, one.token): one.plaintext
    for one in SUBJECTS
    for other in SUBJECTS
    if one.version == "v1"
}
_TENANTS = {
    (key.key_id, salt): derive_tenant(keyed(key.root), salt.encode())
    for key in RING.keys
    for salt in {one.salt for one in SUBJECTS}
}


#: How often each outcome of `decrypt` was seen, with all keys and formats.
OUTCOMES: Counter[str] = Counter()


def one_input(source: bytes) -> None:
    """Decrypt one input, as the module's text says; raise ``AssertionError`` if it is wrong."""
    if not source:
        return
    subject = SUBJECTS[source[0] % SEALED % len(SUBJECTS)]
    if source[0] & SEALED:
        check_sealed(subject, source[1:])
    else:
        check(subject, source[1:].decode("utf-8", "surrogateescape"))


def check(subject: Subject, text: str) -> None:
    """Whatever a column holds gives what was written, or the error that says why not."""
    where = subject.salt, subject.context, subject.bound_to
    expected = _WRITTEN[*where, text] if (*where, text) in _WRITTEN else _error(text, subject)
    outcome = _outcome(RING, text, where)
    OUTCOMES["plaintext" if isinstance(outcome, str) else outcome.__name__] += 1
    if outcome != expected:
        raise AssertionError("not what was written, nor the error that says why")
    for ring, refused in ((_ONLY_V2, "v1"), (_ONLY_V1, "v2")):
        limited = UnsupportedFormatError if _shape(text) == refused else expected
        if _outcome(ring, text, where) != limited:
            raise AssertionError("READ_FORMATS is not kept")


def check_sealed(subject: Subject, plaintext: bytes) -> None:
    """What was encrypted comes back, and what is no text is an error."""
    where = subject.salt, subject.context, subject.bound_to
    outcome = _outcome(RING, _sealed(subject, plaintext), where)
    OUTCOMES["encrypted here"] += 1
    try:
        expected: object = plaintext.decode("utf-8")
    except UnicodeDecodeError:
        expected = MalformedTokenError
    if outcome != expected:
        raise AssertionError("what was encrypted did not come back as it was")


def _sealed(subject: Subject, plaintext: bytes) -> str:
    master = _MASTERS[subject.master]
    if subject.version == "v1":
        sealed = _v1_cipher(master, subject.salt).encrypt(_IV, plaintext, None)
        return reference.written(reference.Parsed("v1", "", _IV + sealed))
    key, commitment = _TENANTS[master.key_id, subject.salt]
    aad = associated_data(master.key_id, subject.context, subject.bound_to)
    payload = commitment + _IV + AESGCM(key).encrypt(_IV, plaintext, aad)
    return reference.written(reference.Parsed("v2", master.key_id, payload))


@cache
def _v1_cipher(master: MasterKey, salt: str) -> AESGCM:
    return master.v1_cipher(salt)


def _outcome(
    ring: Keyring, text: str, where: tuple[str, str, tuple[str | None, ...]]
) -> str | type[DecryptionError]:
    """The text that it decrypts to, or the class of the ``DecryptionError``."""
    try:
        return ring.decrypt(text, *where)
    except DecryptionError as error:
        if len(text) > _LONGEST_PREFIX and text in str(error):
            raise AssertionError("a message holds the whole token") from None
        return type(error)


def _shape(text: str) -> str:
    """Which format a text claims to be: "v1" is what claims no version at all."""
    if re.match(r"v2:[0-9a-f]{8}:", text):
        return "v2"
    if text.startswith("v2:"):
        return "no v2"
    return "newer" if re.match(r"v[0-9]{1,9}:", text) else "v1"


def _error(text: str, subject: Subject) -> type[DecryptionError]:
    """The error for a text that was not written for this subject."""
    shape, parsed = _shape(text), reference.parse(text)
    if shape == "newer":
        return UnsupportedFormatError
    if shape == "v2" and text[3:11] not in RING.key_ids():
        return UnknownKeyError
    if parsed is None:
        return MalformedTokenError
    if parsed.version == "v2":
        _key, commitment = _TENANTS[parsed.key_id, subject.salt]
        if parsed.payload[:16] != commitment:
            return WrongKeyError
    return TamperedError
