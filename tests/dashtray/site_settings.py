"""The production settings with a page more, for tests that start a real server."""

from dashtray.settings import *  # noqa: F403

ROOT_URLCONF = "tests.dashtray.site_urls"
