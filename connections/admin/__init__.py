"""Connections, their metrics and the record of credential events on the admin site."""

from connections.admin.connection import ConnectionAdmin
from connections.admin.event import CredentialEventAdmin

__all__ = ["ConnectionAdmin", "CredentialEventAdmin"]
