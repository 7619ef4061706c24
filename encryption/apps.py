"""The Django app."""

from importlib.util import find_spec

from django.apps import AppConfig, apps
from django.core.checks import Tags, register
from django.utils.translation import gettext_lazy as _


class EncryptionConfig(AppConfig):
    """Encrypted fields; registers the checks and the guards in Django's own code, in the admin and
    in the REST framework."""

    name = "encryption"
    label = "encryption"
    verbose_name = _("Encryption")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, and tell Django, the admin and the REST framework, where there are
        any."""
        from encryption import (  # checks register themselves
            checks,  # noqa: F401
            formsets,
            indexchecks,  # noqa: F401
            loading,
            reporting,
        )

        loading.install()
        formsets.install()
        register(reporting.check_reporting, Tags.security, deploy=True)
        if apps.is_installed("django.contrib.admin"):
            from encryption import admin, status_admin

            admin.install()
            status_admin.install()
            register(admin.check_admin_exposure, Tags.admin)
        if find_spec("rest_framework"):  # it works without being an installed app
            from encryption import serializers

            serializers.register()
            if apps.is_installed("drf_spectacular"):
                from encryption import openapi  # noqa: F401  # extensions register themselves
