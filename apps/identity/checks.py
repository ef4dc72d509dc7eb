"""Is anybody's password one that everybody knows?"""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import checks

STAFF_MAX = 1000  # a password check takes a quarter of a second; more staff than this is another kind of system


def staff_with_default_passwords() -> list[str]:
    """Logins of the back office whose password is a default one. Always empty in the embedded mode, whose demo has one."""
    if settings.EMBEDDED:
        return []
    staff = get_user_model().objects.filter(is_staff=True, is_active=True).order_by("pk")[:STAFF_MAX]
    return [user.get_username() for user in staff if any(map(user.check_password, sorted(settings.DEFAULT_PASSWORDS)))]


@checks.register("identity", deploy=True)
def check_anonymous_orders(**_options: object) -> list[checks.CheckMessage]:
    """``manage.py check --deploy``: orders need credentials."""
    if settings.ORDERS_ALLOW_ANONYMOUS:
        return [checks.Error("ORDERS_ALLOW_ANONYMOUS is on: anybody may place orders.", id="identity.E001")]
    return []


@checks.register("identity", deploy=True)
def check_proxies(**_options: object) -> list[checks.CheckMessage]:
    """``manage.py check --deploy``: whoever fails to log in is told from others, also behind a proxy."""
    if settings.TLS and not settings.TRUSTED_PROXIES:
        told = "TRUSTED_PROXIES is empty: behind a proxy all callers have its address, and wait for each other's failures."
        return [checks.Warning(told, id="identity.W001")]
    return []
