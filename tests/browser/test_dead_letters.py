"""Dead letters as a person meets them: found in the list, looked at, sent again with a reason."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from playwright.sync_api import expect

from apps.messaging.models import DeadLetterReplay
from apps.messaging.relay import relay_all
from tests.browser.conftest import OpenPage, each_theme, wait_for_fonts
from tests.browser.test_pages import BOTH_SIZES, assert_no_sideways_scroll, shoot
from tests.integration.messaging.letters import Refusal, bury, give, record
from tests.integration.messaging.world import Reader

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

DEAD = "/admin/messaging/message/?kind=dead"


@pytest.fixture
def letters(transactional_db: None) -> Iterator[list[UUID]]:
    """Two that can be sent again."""
    reader = Reader("tests")
    found = [bury(record(n, global_id=f"run-{n}"), group="tests", error=Refusal("The seat is taken")) for n in (1, 2)]
    relay_all()
    yield found
    reader.close()


class TestReplay:
    @BOTH_SIZES
    def test_from_the_list_to_the_click(self, open_page: OpenPage, letters: list[UUID], size: str) -> None:
        page = open_page(size=size)
        page.goto(DEAD)
        for letter in letters:
            page.locator(f"input.action-select[value='{letter}']").check()
        page.get_by_role("combobox").select_option("Replay dead letters…")
        wait_for_fonts(page)
        for theme in each_theme(page):
            shoot(page, f"replay_list_{size}_{theme}")
            right = page.evaluate("document.querySelector('#changelist-actions').getBoundingClientRect().right")
            assert right <= page.evaluate("document.documentElement.clientWidth"), "the bar of actions is cut off"
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_role("heading", name="2 dead letters to send again")).to_be_visible()
        expect(page.get_by_text("If you replay now")).to_be_visible()
        for theme in each_theme(page):
            shoot(page, f"replay_{size}_{theme}")
            assert_no_sideways_scroll(page)
        page.get_by_label("Why").fill("the seat is free")
        page.get_by_role("button", name="Replay", exact=True).click()
        expect(page.get_by_text("2 messages are on the way again.")).to_be_visible()
        assert DeadLetterReplay.objects.count() == 2

    def test_says_what_cannot_be_sent(self, open_page: OpenPage, letters: list[UUID]) -> None:
        give(record(3, value=b"nonsense"), group="tests")
        page = open_page()
        page.goto(DEAD)
        page.locator("#action-toggle").check()
        page.get_by_role("combobox").select_option("Replay dead letters…")
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_role("heading", name="1 cannot be sent as it is")).to_be_visible()
        shoot(page, "replay_refused")


class TestLetter:
    @BOTH_SIZES
    def test_leads_to_its_replay(self, open_page: OpenPage, letters: list[UUID], size: str) -> None:
        page = open_page(size=size)
        page.goto(f"/admin/messaging/message/{letters[0]}/change/")
        expect(page.get_by_text("Not replayed.")).to_be_visible()
        assert_no_sideways_scroll(page)
        page.get_by_role("link", name="Mark it in the list").click()
        page.locator(f"input.action-select[value='{letters[0]}']").check()
        page.get_by_role("combobox").select_option("Replay dead letters…")
        page.get_by_role("button", name="Run").click()
        page.get_by_label("Why").fill("the seat is free")
        page.get_by_role("button", name="Replay", exact=True).click()
        expect(page.get_by_text("1 message is on the way again.")).to_be_visible()
        page.goto(f"/admin/messaging/message/{letters[0]}/change/")
        shoot(page, f"dead_letter_{size}")
        assert_no_sideways_scroll(page)
        row = DeadLetterReplay.objects.get()
        page.get_by_role("link", name=str(row.pk)).click()
        expect(page.get_by_text("Replay of")).to_be_visible()
        shoot(page, f"replay_message_{size}")
