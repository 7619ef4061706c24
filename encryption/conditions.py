"""What the constraints of a model are judged by when an instance is validated.

Django gives a condition the values of all fields of the row, whether it names them or not, and
takes each with ``getattr``. A secret would be decrypted for that, or could not be, and its
plaintext would stand in frames and go to the database as a parameter. A condition can be about
nothing but whether it is NULL, so that is all it is told.
"""

from typing import Any, NoReturn

from django.db import NotSupportedError, models
from django.db.models.expressions import Value

from encryption.binding import layout_of


class NotNull(Value):
    """Stands for a value of which nothing is known but that there is one."""

    def __init__(self, field: "models.Field[Any, Any]") -> None:
        super().__init__("*", output_field=field)

    def as_sql(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, and Django leaves the condition to the database (any other error it raises).

        Raises:
            NotSupportedError: always. ``isnull`` does not ask a value for its SQL.
        """
        raise NotSupportedError(f"{self.output_field} is encrypted, and its value is not compared.")


class WithoutSecrets:
    """An instance, with :class:`NotNull` in the place of each secret and each blind index.

    An index is NULL where its secret is, also while it is not computed yet.
    """

    def __init__(self, instance: models.Model) -> None:
        self._instance = instance
        layout = layout_of(instance)
        self._secrets = {
            **{field.attname: field for field in layout.fields},
            **{index.attname: index.encrypted for index in layout.indexes},
        }

    def __getattr__(self, name: str) -> Any:
        field = self._secrets.get(name)
        if field is None:
            return getattr(self._instance, name)
        if field.stored_in(self._instance) is None:
            return None
        return NotNull(self._instance._meta.get_field(name))  # type: ignore[arg-type]
