"""The ASGI application, `dashtray.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashtray.settings")
# Each request has a thread of its own here, so a connection that is kept serves nobody else,
# and a busy site soon holds as many as the database allows.
os.environ["DATABASE_CONN_MAX_AGE"] = "0"

application = get_asgi_application()
