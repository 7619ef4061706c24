"""The ASGI application, `dashtray.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashtray.settings")

application = get_asgi_application()
