"""The Django app."""

from django.apps import AppConfig
from django.conf import settings


class DashtrayConfig(AppConfig):
    name = "dashtray"
    verbose_name = "Dashtray"

    def ready(self) -> None:
        # Tasks sent from a web process go to the broker of the settings only once the Celery
        # application is loaded. Without a broker nothing is sent, and Celery need not be installed.
        if settings.CELERY_BROKER_URL:
            from dashtray import celery  # noqa: F401
        from dashtray import checks, metrics  # noqa: F401  # checks register themselves

        metrics.install()
