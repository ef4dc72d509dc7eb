"""The door of an ASGI server."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402

from config.threads import ThreadedHandler  # noqa: E402

application = ThreadedHandler(settings.WEB_THREADS)
