"""The back office's login: a password is looked at only when the name and the address have not failed too often.

To look at one costs a quarter of a second of a processor, so the limit comes before it, and devices that are not known have
at most half of the threads for it at a time.
"""

import functools
from collections.abc import Callable
from threading import BoundedSemaphore
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from unfold.forms import AuthenticationForm

from apps.common.addresses import caller_address
from apps.common.errors import TooManyRequests
from apps.identity import public as identity

COOKIE = "lastro_device"
LOOKS_MAX = max(settings.WEB_THREADS // 2, 1)
LOOKS = BoundedSemaphore(LOOKS_MAX)
BUSY_S = 5  # a quarter of a second each: by then those before are through


class LoginForm(AuthenticationForm):
    """Unfold's form, with a limit on failures. What it came to is left at the request, for ``limited``."""

    def clean(self) -> Any:
        """Raises ValidationError, also when too many attempts have failed; then no password is looked at."""
        name, request = self.cleaned_data.get("username"), self.request
        if not name or not self.cleaned_data.get("password") or request is None:
            return super().clean()
        device = request.COOKIES.get(COOKIE, "")
        try:
            attempt = identity.begin_login(name, address=caller_address(request), device=device, now=timezone.now())
        except TooManyRequests as refusal:
            minutes = -(-refusal.retry_after_s // 60)
            when = f"in {minutes} minutes" if minutes > 1 else "in a minute"
            raise _wait(request, f"Too many failed logins. Try again {when}.", refusal.retry_after_s) from None
        is_stranger = not attempt.on_known_device
        if is_stranger and not LOOKS.acquire(blocking=False):
            identity.login_passed_over(attempt)
            raise _wait(request, "Too many are logging in just now. Try again in a few seconds.", BUSY_S)
        try:
            found = super().clean()
        finally:
            if is_stranger:
                LOOKS.release()
        request.known_device = identity.login_succeeded(attempt)
        return found


def _wait(request: HttpRequest, words: str, seconds: int) -> ValidationError:
    request.login_waits_s = seconds  # type: ignore[attr-defined]  # read by limited
    return ValidationError(words, code="too_many")


def limited(login: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The admin's login view, which says 429 to whoever has to wait, and knows the device of whoever got in."""

    @functools.wraps(login)
    def view(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponseBase:
        response = login(request, *arguments, **named)
        if (seconds := getattr(request, "login_waits_s", None)) is not None:
            response.status_code = 429
            response["Retry-After"] = str(seconds)
        if (device := getattr(request, "known_device", None)) is not None:
            response.set_cookie(
                COOKIE,
                device,
                max_age=identity.DEVICE_KNOWN,
                path="/admin/login/",
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Strict",
            )
        return response

    return view
