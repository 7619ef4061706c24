"""Settings of gunicorn: `gunicorn --config deploy/gunicorn.conf.py dashtray.wsgi`."""

import os
import shutil
import tempfile
from importlib.util import find_spec

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
# Threads wait for services that connections are tested against; a process answers meanwhile.
worker_class = "gthread"
threads = int(os.environ.get("WEB_THREADS", "4"))
# Seconds. A worker that gives no sign of life for so long is replaced.
timeout = 60
graceful_timeout = 30
keepalive = 5
# It would be in the account's home, which it does not have.
control_socket_disable = True
# The largest request line, number of header fields and size of one that are read.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# Paths without their query, which may hold anything.
# Written through the loggers below.
access_log_format = '%(h)s "%(m)s %(U)s %(H)s" %(s)s %(B)s %(M)sms'
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "dashtray.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "gunicorn.error": {"handlers": [], "level": "INFO", "propagate": True},
        "gunicorn.access": {
            "handlers": [],
            "level": "INFO",
            "propagate": True,
            "filters": ["no probes"],
        },
    },
    "filters": {"no probes": {"()": "dashtray.logs.WithoutProbes"}},
}

# The workers add up their figures for Prometheus in files of this directory.
_metrics = None
if find_spec("prometheus_client") and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    _metrics = tempfile.mkdtemp(prefix="dashtray-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics


def on_exit(server):
    if _metrics is not None:
        shutil.rmtree(_metrics, ignore_errors=True)
