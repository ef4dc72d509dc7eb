"""A real Chromium on the real pages. What it logs as an error fails the test."""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import StaticFilesHandlerMixin
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
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
    "--renderer-process-limit=1",
    # Nothing may come from another host: whatever asks for one fails, and is heard.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
TIMEOUT_MS = 60_000  # a limit for a broken page, also on a busy machine
# The theme is a class of the page: who changes it sees the same page in the other colours, without loading it anew.
DARKEN = "(dark) => { document.documentElement.classList.toggle('dark', dark) }"
SIZES = {"desktop": (1280, 900), "wide": (1440, 900), "phone": (390, 844)}
PASSWORD = "a long one"
# Where a page waits for its next test: it asks for nothing, and is ours, so that the browser keeps its process.
RESTING = "/resting"
BLANK = "<!doctype html><title>resting</title><link rel=icon href=data:,>"

expect.set_options(timeout=TIMEOUT_MS)  # its own is five seconds

OpenPage = Callable[..., Page]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker has the browser, and all of its tests."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.xdist_group("browser"))


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


@pytest.fixture(scope="session", autouse=True)
def lasting_files() -> Iterator[None]:
    """Scripts, styles and fonts stay in the browser's cache, as they do behind a server that sends their age."""

    def serve(handler: StaticFilesHandlerMixin, request: HttpRequest) -> HttpResponseBase:
        response = original(handler, request)
        response["Cache-Control"] = "max-age=3600, immutable"
        return response

    original = StaticFilesHandlerMixin.serve
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StaticFilesHandlerMixin, "serve", serve)
        yield


class Answering:
    """The server's application, which knows whether it is at work.

    A page that is left does not wait for what it asked for, and the server goes on with it: with the rows of this test
    until they are gone, and it may keep what it found (see ``apps.backoffice.remembered``) for the page of the next one.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._changed = threading.Condition()
        self._requests = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._changed:
            self._requests += 1
        try:
            return self._application(environ, start_response)
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    def wait_until_done(self) -> None:
        """Come back when nothing is answered any more."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._requests, timeout=TIMEOUT_MS / 1000)
        assert done, "the server still works for a page that is gone"


@pytest.fixture(scope="session")
def answering(live_server: LiveServer) -> Answering:
    server = live_server.thread.httpd
    server.set_app(made := Answering(server.get_app()))
    return made


class Profile:
    """What the browser keeps for one person. Its cache and one page last for all tests, everything else for one."""

    def __init__(self, browser: Browser, *, base_url: str, script: bool) -> None:
        self.base_url, self.script = base_url, script
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.context = browser.new_context(base_url=base_url, java_script_enabled=script)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.on("console", self._listen)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("request", self._look)
        self.kept = self.context.new_page()  # a page of its own for each test starts a process for each
        self.is_free = True

    def _listen(self, message: ConsoleMessage) -> None:
        # That a page says 429 is the browser's own remark, and no fault of the page.
        if message.type == "error" and "a status of 429" not in message.text:
            self.errors.append(f"{message.text} {message.location}")

    def _look(self, request: Request) -> None:
        if not request.url.startswith((self.base_url, "data:", "blob:", "about:")):
            self.foreign.append(request.url)

    def open(self, *, size: str, dark: bool) -> Page:
        page = self.kept if self.is_free else self.context.new_page()
        self.is_free = False
        width, height = SIZES[size]
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
        return page

    def forget(self) -> None:
        """Close the pages, and forget who was logged in and what was remembered. Nothing, when nobody opened one."""
        if self.is_free:
            return
        for page in self.context.pages:
            if self.script and page.url.startswith(self.base_url):
                page.evaluate("localStorage.clear(); sessionStorage.clear()")
            if page is self.kept:
                page.unroute_all()
                page.route(RESTING, lambda route: route.fulfill(content_type="text/html", body=BLANK))
                page.goto(RESTING)
                page.unroute_all()
            else:
                page.close()
        self.context.clear_cookies()
        self.is_free = True
        self.errors, self.foreign = [], []


@pytest.fixture(scope="session")
def profiles(chromium: Browser, live_server: LiveServer) -> Iterator[dict[tuple[bool, bool], Profile]]:
    """With scripts or without, and of the chief or of somebody else: made when they are asked for."""

    class Profiles(dict[tuple[bool, bool], Profile]):
        def __missing__(self, key: tuple[bool, bool]) -> Profile:
            self[key] = made = Profile(chromium, base_url=live_server.url, script=key[0])
            return made

    made = Profiles()
    yield made
    for profile in made.values():
        profile.context.close()


@pytest.fixture
def open_page(
    profiles: dict[tuple[bool, bool], Profile], live_server: LiveServer, answering: Answering, transactional_db: None
) -> Iterator[OpenPage]:
    """Open pages in a size and a theme; at the end no page may have logged an error or asked another host."""
    chief = User.objects.create_superuser("chief", password=PASSWORD)

    def opener(*, size: str = "desktop", dark: bool = False, script: bool = True, login: bool = True) -> Page:
        page = profiles[script, login].open(size=size, dark=dark)
        if login:
            page.context.add_cookies([session_of(chief, url=live_server.url)])
        return page

    yield opener
    heard = [(profile.errors, profile.foreign) for profile in profiles.values()]
    for profile in profiles.values():
        profile.forget()
    answering.wait_until_done()
    assert heard == [([], [])] * len(heard)


def session_of(user: User, *, url: str) -> Any:
    """The cookie of somebody who has logged in: the form has tests of its own."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": url}


def wait_for_fonts(page: Page) -> None:
    """Before anything is measured: until a font is there, letters of another width stand in for its own."""
    page.evaluate("document.documentElement.offsetHeight && document.fonts.ready.then(() => null)")


def each_size(page: Page, *sizes: str) -> Iterator[str]:
    """The page in one size after the other, as when somebody turns a phone: loading it again would show the same."""
    for size in sizes:
        width, height = SIZES[size]
        page.set_viewport_size({"width": width, "height": height})
        yield size


def each_theme(page: Page) -> Iterator[str]:
    """The page in one theme after the other. That a dark screen gets the dark one is a test of its own (test_pages)."""
    for theme in ("light", "dark"):
        page.evaluate(DARKEN, theme == "dark")
        yield theme


def each_look(page: Page, *sizes: str) -> Iterator[str]:
    """In each size and theme; how a picture of it is called."""
    for size in each_size(page, *sizes):
        for theme in each_theme(page):
            yield f"{size}_{theme}"


def log_in(page: Page, name: str = "chief") -> None:
    """As a person does."""
    page.goto("/admin/login/?next=/admin/")
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", PASSWORD)
    page.press("input[name=password]", "Enter")
    page.wait_for_url("/admin/")  # nothing but that: the login's own address ends in the same way


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
