"""The Celery application, `celery --app dashtray`. Needs the `celery` extra."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashtray.settings")

app = Celery("dashtray")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
