"""What a service is to Dashtray, and what goes wrong with one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from connections.integrations.fields import ConfigField, CredentialField

Credentials = Mapping[str, Any]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """One measured value.

    Args:
        metric_id: the metric's id, or that, a colon and what the value is of: ``"stars:shop"``.
        at: when, aware of its time zone.
        value: a finite number.
    """

    metric_id: str
    at: datetime
    value: float


class IntegrationError(Exception):
    """A service cannot be used.

    Its message is for people. It is made here and never taken from a reply, which could repeat a
    credential.

    Args:
        message: what was seen, and the way out.
        code: one word for programs.
        permanent: whether it stays until somebody changes something.
    """

    def __init__(self, message: str, code: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.permanent = permanent


class Integration(ABC):
    """A service that connections can be made to. Instances hold no state of any connection.

    Subclasses of other packages are found through the entry point group
    ``dashtray.integrations``, each entry naming a subclass that needs no arguments.
    """

    #: What is stored in ``Connection.service``, at most 50 characters.
    service: ClassVar[str]
    title: ClassVar[str]
    config_fields: ClassVar[tuple[ConfigField, ...]] = ()
    credential_fields: ClassVar[tuple[CredentialField, ...]] = ()
    #: The ids of the metrics that every connection to it has.
    metrics: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def check(self, credentials: Credentials, config: Config) -> None:
        """Do the least that shows that the service takes the credentials.

        Args:
            credentials: canonical names to texts; only those that are set.
            config: as it is stored.

        Raises:
            IntegrationError: it does not, or cannot be reached.
        """

    @abstractmethod
    def fetch_metrics(
        self,
        credentials: Credentials,
        config: Config,
        metric_ids: Sequence[str],
        start: datetime,
        end: datetime,
    ) -> Iterator[Sample]:
        """Yield what the service measured from ``start`` up to ``end``.

        Args:
            credentials, config: as for :meth:`check`.
            metric_ids: those wanted; unknown ones give nothing.
            start, end: aware of their time zones; ``end`` is not after now.

        Raises:
            IntegrationError: as for :meth:`check`; what was yielded before is right.
        """

    def metric_ids(self, config: Config) -> tuple[str, ...]:
        """The ids of all metrics that a connection with this configuration has."""
        return self.metrics

    @classmethod
    def option(cls, config: Config, name: str) -> Any:
        """An entry of the configuration, or its default."""
        field = next(field for field in cls.config_fields if field.name == name)
        return config.get(name, field.default)

    @classmethod
    def destination(cls, config: Config) -> tuple[Any, ...]:
        """Where the credentials are sent under a configuration, to compare with another."""
        return tuple(
            cls.option(config, field.name) for field in cls.config_fields if field.destination
        )

    @classmethod
    def credentials_from(cls, stored: Any) -> dict[str, str]:
        """Pick the credentials that the service knows out of what is stored.

        Those of the product that data is moved over from are found under their names there.
        """
        found: dict[str, str] = {}
        if isinstance(stored, Mapping):
            for field in cls.credential_fields:
                for name in filter(None, (field.name, field.legacy)):
                    value = stored.get(name)
                    if isinstance(value, str) and value:
                        found.setdefault(field.name, value)
        return found

    @classmethod
    def config_from(cls, stored: Any) -> dict[str, Any]:
        """Pick out of imported credentials what is configuration here, and is in order."""
        found: dict[str, Any] = {}
        if isinstance(stored, Mapping):
            for field in cls.config_fields:
                if field.legacy and field.legacy in stored:
                    try:
                        found[field.name] = field.clean(stored[field.legacy])
                    except ValueError:
                        continue
        return found

    @classmethod
    def missing(cls, credentials: Credentials) -> list[str]:
        """The names of required credentials that are not set."""
        return [
            field.name
            for field in cls.credential_fields
            if field.required and field.name not in credentials
        ]
