"""A real Chromium on the real pages. What it logs as an error fails the test."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright
from pytest_django.live_server_helper import LiveServer

from apps.backoffice.pages import usecase_map
from apps.saga.models import Run
from tests import factories

# Playwright's blocking API runs an event loop in this thread, so Django would take its own queries for a mistake.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Nothing may come from another host: whatever asks for one fails, and is heard.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
TIMEOUT_MS = 15_000
SIZES = {"desktop": (1280, 900), "wide": (1440, 900), "phone": (390, 844)}
PASSWORD = "a long one"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail("BROWSER_TESTS=required, and there is no chromium on the PATH")
        pytest.skip("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser, live_server: LiveServer, transactional_db: None) -> Iterator[OpenPage]:
    """Open pages in a size and a theme; at the end no page may have logged an error or asked another host."""
    chief = User.objects.create_superuser("chief", password=PASSWORD)
    contexts, errors, foreign = [], [], []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{message.text} {message.location}")

    def look(request: Request) -> None:
        if not request.url.startswith((live_server.url, "data:", "blob:")):
            foreign.append(request.url)

    def opener(*, size: str = "desktop", dark: bool = False, script: bool = True, login: bool = True) -> Page:
        width, height = SIZES[size]
        context = chromium.new_context(
            base_url=live_server.url,
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", listen)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", look)
        if login:
            context.add_cookies([session_of(chief, url=live_server.url)])
        return page

    yield opener
    for context in contexts:
        context.close()
    assert errors == []
    assert foreign == []


def session_of(user: User, *, url: str) -> Any:
    """The cookie of somebody who has logged in: the form has tests of its own."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": url}


def log_in(page: Page) -> None:
    """As a person does."""
    page.goto("/admin/login/?next=/admin/")
    page.fill("input[name=username]", "chief")
    page.fill("input[name=password]", PASSWORD)
    page.press("input[name=password]", "Enter")
    page.wait_for_url("**/admin/")


@pytest.fixture
def runs(transactional_db: None) -> dict[str, Run]:
    now = timezone.now()
    return {
        "undoing": factories.undoing_run(now=now),
        "stuck": factories.stuck_run(now=now),
        "completed": factories.completed_run(now=now),
    }


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Each test has its own world."""
    usecase_map.forget()
