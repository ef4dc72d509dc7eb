"""The pages keep their promise to everybody: names, labels, structure, contrast and focus, measured in the real thing."""

from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page

from apps.saga.models import Run
from tests import worlds
from tests.browser.conftest import OpenPage
from tests.browser.test_pages import THEMES, assert_no_sideways_scroll, shoot

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
CHECKS = (Path(__file__).parent / "accessibility.js").read_text()
CARD = "/admin/use-cases/orders.purchase.card/"
TABS_MAX = 250  # presses of the Tab key: no page has more places to stop at
# What has the focus: its kind, its name, and whether that is seen (a box of the map has a thicker edge for it).
FOCUS = """(() => {
  const here = document.activeElement;
  if (!here || !here.closest('.bo')) return null;
  const style = getComputedStyle(here), box = here.querySelector('.box, .undo-box');
  const ring = style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2;
  const edge = box !== null && parseFloat(getComputedStyle(box).strokeWidth) >= 3;
  return [here.tagName, (here.getAttribute('aria-label') || here.textContent).trim().slice(0, 40), ring || edge];
})()"""
MOVING = "document.getAnimations().filter((each) => each.effect.target.closest('.bo, .bo-pill')).length"
BAD = """<div class="bo" id="bad"><p style="color:#999;background:#fff">pale</p><input name="x">
<button style="width:20px;height:20px"></button><table><tr><th>head</th></tr></table><svg viewBox="0 0 9 9"></svg></div>"""


@pytest.fixture
def evening(transactional_db: None) -> dict[str, Run]:
    return worlds.busy_evening(now=timezone.now(), completed=20, waiting=8)


def addresses(evening: dict[str, Run]) -> dict[str, str]:
    """Every page of ours."""
    runs = {f"run_{name}": f"/admin/runs/{run.pk}/" for name, run in evening.items()}
    tabs = {f"run_{tab}": f"/admin/runs/{evening['undoing'].pk}/?tab={tab}" for tab in ("messages", "data", "audit")}
    return {
        "home": "/admin/",
        "use_cases": "/admin/use-cases/",
        "map": CARD,
        "map_errors": f"{CARD}?by=errors",
        "map_volume": f"{CARD}?by=volume&window=24h",
        "map_balance": "/admin/use-cases/orders.purchase.balance/",
        "triage": "/admin/triage/",
        "retry": f"/admin/triage/act/?action=retry&run={evening['stuck'].pk}",
        "skip": f"/admin/triage/act/?action=skip&run={evening['stuck'].pk}",
        **runs,
        **tabs,
    }


def look(page: Page, name: str) -> list[str]:
    """What is wrong with the page as it is, all of it in view."""
    page.wait_for_load_state("networkidle") if "live" not in page.content() else page.wait_for_load_state()
    height = page.evaluate("document.documentElement.scrollHeight")
    size = page.viewport_size or {"width": 1440}
    page.set_viewport_size({"width": size["width"], "height": min(int(height) + 50, 6000)})
    found = page.evaluate(CHECKS, ".bo")
    assert found["looked"] > 5, f"{name}: hardly any text was looked at"
    return [f"{name}: {each}" for each in found["wrong"]]


class TestEveryPage:
    @THEMES
    @pytest.mark.parametrize("size", ["wide", "phone"])
    def test_has_names_labels_structure_and_contrast(
        self, open_page: OpenPage, evening: dict[str, Run], size: str, dark: bool
    ) -> None:
        page = open_page(size=size, dark=dark)
        wrong = []
        for name, address in addresses(evening).items():
            page.set_viewport_size({"width": 1440 if size == "wide" else 390, "height": 900})
            page.goto(address)
            wrong += look(page, name)
            assert_no_sideways_scroll(page)
            shoot(page, f"{name}_{size}_{'dark' if dark else 'light'}")
        assert wrong == []

    def test_would_be_found_wrong_if_it_were(self, open_page: OpenPage) -> None:
        page = open_page()
        page.evaluate("(html) => { document.querySelector('.bo').outerHTML = html }", BAD)
        found = page.evaluate(CHECKS, ".bo")["wrong"]
        for expected in ("contrast", "no label", "no name", "without a caption", "without a scope", "without a role"):
            assert any(expected in each for each in found), (expected, found)


class TestKeyboard:
    @pytest.mark.parametrize("name", ["map", "run_stuck", "home"])
    def test_reaches_everything_in_the_order_of_the_page_and_shows_where_it_is(
        self, open_page: OpenPage, evening: dict[str, Run], name: str
    ) -> None:
        page = open_page(size="wide")
        page.goto(addresses(evening)[name])
        wanted = page.evaluate(
            "[...document.querySelectorAll('.bo a[href], .bo button, .bo select, .bo textarea')]"
            ".filter((e) => e.getBoundingClientRect().width > 0 && !e.closest('[hidden]')).length"
        )
        page.evaluate("document.querySelector('.bo').setAttribute('tabindex', '-1'); document.querySelector('.bo').focus()")
        stops = []
        for _ in range(TABS_MAX):
            page.keyboard.press("Tab")
            stop = page.evaluate(FOCUS)
            if stop is None:
                break
            stops.append(stop)
        assert [stop for stop in stops if not stop[2]] == []
        assert len([stop for stop in stops if stop[0] not in {"DIV", "PRE", "SUMMARY"}]) >= wanted

    def test_opens_a_step_of_the_map(self, open_page: OpenPage, evening: dict[str, Run]) -> None:
        page = open_page(size="wide")
        page.goto(CARD)
        page.locator(".bo-map a").nth(2).focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/saga/run/**at=**")


class TestMotion:
    def test_stands_still_for_whoever_asked_for_that(self, open_page: OpenPage, evening: dict[str, Run]) -> None:
        page = open_page()
        page.goto(CARD)
        moving = page.evaluate(
            "document.getAnimations().filter((each) => each.effect.target.closest('.bo, .bo-pill')).length"
        )
        assert moving == 0
