"""The Celery application, `celery --app dashtray`. Needs the `celery` extra."""

import logging.config
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashtray.settings")

app = Celery("dashtray")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect  # type: ignore[untyped-decorator]
def _use_the_sites_logging(**kwargs: Any) -> None:
    """Celery's own handlers, which would print arguments and secrets, are made where nobody
    answers this signal."""
    logging.config.dictConfig(settings.LOGGING)
