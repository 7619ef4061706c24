"""Projects, who may do what in them, and what every endpoint below a project shares."""
