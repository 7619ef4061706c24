"""What each service is: its fields, and how to talk to it. Nothing here knows a model."""
