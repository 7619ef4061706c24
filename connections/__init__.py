"""Connections to other services: their credentials, what they measure, and how they are doing."""
