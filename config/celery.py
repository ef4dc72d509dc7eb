"""The Celery application. Its settings are in config/celery_settings.py and are read when first needed."""

import os

from celery import Celery

# Celery looks for Django at the moment its application is made.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("lastro")
# The worker may run in a thread of the embedded process; without a default application it would look for a broker on
# localhost.
app.set_default()
app.config_from_object("config.celery_settings")
app.autodiscover_tasks()
