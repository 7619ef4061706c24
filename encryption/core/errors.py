"""What can go wrong with encrypted data, as one family.

Bad data raises a :class:`DecryptionError`; misuse raises the built-in ``TypeError`` or
``ValueError``. A message says what was seen, the likely cause and the way out. It never holds a
plaintext, a key or a whole token.
"""

from encryption.core.counts import COUNTS


class EncryptionError(Exception):
    """Base of all errors of this package. Each is counted where it is made."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        COUNTS.fail(type(self).__name__)


class DecryptionError(EncryptionError):
    """A stored value cannot be turned back into its plaintext."""

    #: Where the value stands ("app.Model.field (pk=1)"), once a field has told it.
    location: str = ""

    def at(self, location: str) -> "DecryptionError":
        """Return the same error, its message beginning with ``location`` (set once)."""
        if not self.location:
            self.location = location
            self.args = (f"{location}: {self}", *self.args[1:])
        return self


class UnknownKeyError(DecryptionError):
    """The key id that the token names is not in the keyring: the master key changed."""


class WrongKeyError(DecryptionError):
    """The key id is known but the commitment differs: the salt is another tenant's."""


class TamperedError(DecryptionError):
    """Authentication failed: changed data, or a token of another column, row or host."""


class MalformedTokenError(DecryptionError):
    """The text is not a token."""


class UnsupportedFormatError(DecryptionError):
    """A token version that this release does not know, or that READ_FORMATS leaves out."""


class RepeatedKeyError(ValueError):
    """A master key stands twice in a keyring, or two of them have one key id."""


class MissingSaltError(EncryptionError, ValueError):
    """The tenant of a value is not known (yet), so there is no key to encrypt it with."""
