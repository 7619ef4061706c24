"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class EncryptionConfig(AppConfig):
    """Encrypted fields; registers the system checks."""

    name = "encryption"
    label = "encryption"
    verbose_name = _("Encryption")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks."""
        from encryption import checks  # noqa: F401  # registers by being imported
