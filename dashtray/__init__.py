"""The Dashtray site: settings and wiring. The applications hold the behaviour."""
