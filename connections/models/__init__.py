"""Connections, what they measured, and who did what with their credentials."""

from connections.models.connection import Connection, Status
from connections.models.event import CredentialEvent
from connections.models.metric import Metric

__all__ = ["Connection", "CredentialEvent", "Metric", "Status"]
