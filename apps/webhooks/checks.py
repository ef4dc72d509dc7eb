"""May merchants have us talk to our own network?"""

from django.conf import settings
from django.core import checks


@checks.register("webhooks", deploy=True)
def check_local_endpoints(**_options: object) -> list[checks.CheckMessage]:
    """``manage.py check --deploy``: endpoints are public."""
    if settings.WEBHOOKS_ALLOW_LOCAL:
        return [checks.Error("WEBHOOKS_ALLOW_LOCAL is on: endpoints may be private addresses.", id="webhooks.E001")]
    return []
