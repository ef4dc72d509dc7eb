"""The project's settings, with Celery's messages kept in memory where nobody reads them.

Losing every one of them must lose nothing, so most tests drive the work themselves; those that need a worker start one.
"""

from config.settings import *  # noqa: F403

CELERY_BROKER_URL = "memory://"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Most tests of payments have no ledger to post to; those of the money set it.
LEDGER_MERCHANTS_ACCOUNT = ""
