"""What an API key may be allowed to do. What is not listed here, only people may do.

The views say which scope they need, by these names (see ``projects.permissions.Need``).
"""

from django.db import models


class Scope(models.TextChoices):
    PROJECTS_READ = "projects:read", "Read the project and its members"
    CONNECTIONS_READ = "connections:read", "Read connections, without their credentials"
    CONNECTIONS_WRITE = "connections:write", "Create, change and delete connections"
    CONNECTIONS_SYNC = "connections:sync", "Test and sync connections"
    METRICS_READ = "metrics:read", "Read metrics"
