from importlib import import_module

from django.apps import AppConfig
from django.core import checks

from apikeys.checks import check_settings


class ApiKeysConfig(AppConfig):
    name = "apikeys"
    verbose_name = "API keys"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        checks.register(check_settings)
        # The OpenAPI extension is found by being imported.
        import_module("apikeys.schema")
