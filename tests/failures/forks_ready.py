"""What the server of forks does once: import the project, and what a process would import late. See forks.py."""

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from apps.saga import engine  # needs Django
from tests.failures import owners

__all__ = ["engine", "owners"]
