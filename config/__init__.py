"""Settings, URLs, the Celery application and the doors of the processes."""

import gc

from apps.common.processes import OLDER_MAX, YOUNG_MAX

# A process of ours loads 1,600 modules before it does anything, nothing of which is ever freed: with Python's own limit the
# collector walks all of it again and again, a tenth of the time that the start takes.
gc.set_threshold(YOUNG_MAX, *OLDER_MAX)

from config.celery import app as celery_app  # noqa: E402

__all__ = ["celery_app"]
