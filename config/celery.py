"""The Celery application. Its settings are in config/celery_settings.py and are read when first needed."""

import os
from typing import Any

from celery import Celery, signals
from celery.bin.base import CeleryOption

# Celery looks for Django at the moment its application is made.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("lastro")
# The worker may run in a thread of the embedded process; without a default application it would look for a broker on
# localhost.
app.set_default()
app.config_from_object("config.celery_settings")
app.autodiscover_tasks()
app.user_options["worker"].add(
    CeleryOption(
        ["--metrics-port"],
        type=int,
        help_group="Worker Options",
        help="Serve each process's own metrics on METRICS_HOST: there, of a prefork worker there and behind it.",
    )
)


@signals.import_modules.connect
def prepare_process(**_: Any) -> None:
    """A worker or a beat is starting: it wants what a process of its own does at its start and its end."""
    from config import celery_process  # late: it reads the settings, and those import this module

    celery_process.connect()
