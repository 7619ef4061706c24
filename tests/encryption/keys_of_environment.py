"""The settings of the tests, with the master keys of the environment, for other processes."""

import os

KEYS = {
    name: os.environ[name]
    for name in ("MASTER_ENCRYPTION_KEY", "OLD_MASTER_KEY", "CELERY_BROKER_URL")
    if name in os.environ
}

from tests.settings import *  # noqa: E402, F403

os.environ |= KEYS
CELERY_BROKER_URL = KEYS.get("CELERY_BROKER_URL", "")
# A queue of its own, and a lost worker's tasks are given to another one at once, not in an hour.
CELERY_TASK_DEFAULT_QUEUE = os.environ.get("CELERY_QUEUE", "celery")
if CELERY_BROKER_URL.startswith("redis"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3}
