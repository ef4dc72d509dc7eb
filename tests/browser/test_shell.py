"""What stands around every page does what it says, and no code is made of text: menus, theme, sidebar, palette."""

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.test_pages import shoot

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
ALL_EXPRESSIONS = """[...document.querySelectorAll('*')].flatMap((element) => [...element.attributes])
  .filter((each) => each.name.startsWith('x-') && each.value).length"""


class TestShell:
    def test_opens_and_closes_what_it_offers(self, open_page: OpenPage) -> None:
        page = open_page(size="wide")
        page.goto("/admin/")
        assert page.evaluate(ALL_EXPRESSIONS) > 20, "the shell is written in attributes"
        menu = page.get_by_role("link", name="Log out").or_(page.get_by_role("button", name="Log out"))
        expect(menu).to_be_hidden()
        page.get_by_text("chief", exact=True).first.click()
        expect(menu).to_be_visible()
        shoot(page, "shell_menu")
        page.get_by_text("computer", exact=True).click()
        page.get_by_text("dark_mode", exact=True).last.click()
        expect(page.locator("html")).to_have_class("dark")
        page.reload()
        expect(page.locator("html")).to_have_class("dark")  # it is remembered

    def test_folds_the_sidebar_and_remembers_it(self, open_page: OpenPage) -> None:
        page = open_page(size="wide")
        page.goto("/admin/")
        sidebar = page.locator("#nav-sidebar")
        expect(sidebar).to_be_visible()
        page.locator("[x-on\\:click*='sidebarDesktopOpen']").first.click()
        expect(sidebar).to_be_hidden()
        page.reload()
        expect(page.locator("#main")).to_be_visible()
        expect(sidebar).to_be_hidden()

    def test_of_a_phone_opens_its_menu(self, open_page: OpenPage) -> None:
        page = open_page(size="phone")
        page.goto("/admin/")
        expect(page.locator("#nav-sidebar")).to_be_hidden()
        page.locator("[x-on\\:click*='sidebarMobileOpen']:visible").first.click()
        expect(page.locator("#nav-sidebar")).to_be_visible()

    def test_opens_the_palette_by_key(self, open_page: OpenPage) -> None:
        page = open_page(size="wide")
        page.goto("/admin/")
        page.keyboard.press("Control+k")
        field = page.locator("[x-ref=searchInputCommand]")
        expect(field).to_be_visible()
        field.fill("Runs")
        shoot(page, "shell_palette")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        expect(field).to_be_hidden()

    def test_of_a_form_works(self, open_page: OpenPage) -> None:
        page = open_page(size="wide")
        page.goto("/admin/auth/user/add/")
        page.fill("input[name=username]", "newcomer")
        page.fill("input[name=password1]", "a long one 123")
        page.fill("input[name=password2]", "a long one 123")
        page.get_by_role("button", name="Save", exact=True).click()
        page.wait_for_url("**/admin/auth/user/*/change/")
        page.goto("/admin/auth/user/")
        page.locator("#changelist a", has_text="Filters").click()
        expect(page.locator("#changelist-filter")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#changelist-filter")).to_be_hidden()

    def test_sends_a_form_once(self, open_page: OpenPage) -> None:
        address = "**/admin/auth/group/add/"
        page = open_page(size="wide")
        page.goto("/admin/auth/group/add/")
        page.evaluate("window.setTimeout = (call, ms, ...rest) => { window.later = () => call(...rest) }")
        field = page.locator("input[name=name]")
        field.fill("auditors")
        save = page.get_by_role("button", name="Save", exact=True)
        sent: list[str] = []

        def no_content(route: Route) -> None:  # the browser stays where it is, as it does before an answer
            sent.append(route.request.method)
            route.fulfill(status=204)

        page.route(address, no_content)
        with page.expect_request(address):
            save.click()
        expect(page.locator("form[aria-busy=true]")).to_have_count(1)
        shoot(page, "shell_sent")
        save.click()
        field.press("Enter")
        page.evaluate("later()")  # nobody has answered for long: it may be sent again
        expect(page.locator("form[aria-busy]")).to_have_count(0)
        with page.expect_request(address):
            save.click()
        assert sent == ["POST", "POST"]
        page.unroute(address)
        page.evaluate("later()")
        save.click()
        expect(page.get_by_text("was added successfully")).to_be_visible()
        page.go_back()
        expect(save).to_be_visible()
        expect(page.locator("form[aria-busy]")).to_have_count(0)

    def test_says_whose_time_it_shows(self, open_page: OpenPage) -> None:
        page = open_page(size="phone")
        page.goto("/admin/saga/run/")
        page.get_by_role("button", name="Menu").click()
        expect(page.get_by_text("São Paulo time")).to_be_visible()
        shoot(page, "shell_zone_phone")

    def test_is_opened_by_keyboard(self, open_page: OpenPage) -> None:
        page = open_page(size="phone")
        page.goto("/admin/saga/run/")
        sidebar = page.locator("#nav-sidebar")
        expect(sidebar).to_be_hidden()
        page.get_by_role("button", name="Menu").focus()
        page.keyboard.press("Enter")
        expect(sidebar).to_be_visible()
        page.get_by_role("button", name="chief").focus()
        page.keyboard.press("Space")
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        page.get_by_role("button", name="Dark", exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.locator("html")).to_have_class("dark")
        page.get_by_role("button", name="Close", exact=True).focus()
        page.keyboard.press("Enter")
        expect(sidebar).to_be_hidden()
        expect(
            page.get_by_role("searchbox", name="A whole run id").or_(page.get_by_label("A whole run id"))
        ).to_be_visible()
        page.get_by_role("button", name="Filters").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#changelist-filter")).to_be_visible()
