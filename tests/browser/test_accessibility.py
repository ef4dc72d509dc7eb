"""The pages keep their promise to everybody: names, labels, structure, contrast and focus, measured in the real thing.

axe looks at whole pages; contrast is measured by our own checks, because axe leaves text in drawings out.
"""

from pathlib import Path

import axe_playwright_python
import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from apps.saga import incidents
from apps.saga.models import Fork, Incident, Run
from tests import worlds
from tests.browser.conftest import OpenPage, each_theme
from tests.browser.test_pages import assert_no_sideways_scroll, shoot

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
CHECKS = (Path(__file__).parent / "accessibility.js").read_text()
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# Unfold's scrolling sidebars have all the same name.
RUN_AXE = """axe.run({exclude: ['.simplebar-content-wrapper']}, {resultTypes: ['violations'],
  rules: {'color-contrast': {enabled: false}}})
  .then(({violations}) => violations.flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html.slice(0, 99)}`)))"""
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
    found = worlds.busy_evening(now=timezone.now(), completed=20, waiting=8)
    incidents.adopt()
    fork_of(found["stuck"])
    return found


def fork_of(run: Run) -> Fork:
    """A try that went as far as the posting."""
    how = (
        ("reserve_tickets", "kept"),
        ("authorise_payment", "taken"),
        ("issue_fiscal_doc", "not_asked"),
        ("post_sale", "run"),
    )
    status = {"not_asked": "NOT_ASKED"}
    steps = [
        {
            "name": name,
            "how": way,
            "status": status.get(way, "DONE"),
            "output": {},
            "error_code": "",
            "error_detail": "",
            "took_ms": 1.5,
        }
        for name, way in how
    ]
    steps[-1] |= {"status": "REFUSED", "error_code": "R103", "error_detail": "The account would fall below its floor."}
    line = {"account": "0001/SALES/BRL", "amount": "10.50", "debitcredit": "C"}
    return Fork.objects.create(
        forked_from=run.pk,
        use_case=run.use_case,
        version=run.version,
        subject_id=run.subject_id,
        business_key=run.business_key,
        from_step="authorise_payment",
        status="REFUSED",
        failed_step="post_sale",
        error_code="R103",
        error_detail="The account would fall below its floor.",
        steps=steps,
        published=[{"topic": "payments.card.processor.in", "schema": "payments.Authorise", "key": "42"}],
        posted={"lines": [line], "holds": [{"account": "0001/000000001/BRL", "amount": "10.50", "status": "OPEN"}]},
        reason="would it pass with the new floor?",
        made_by="user:chief",
        made_at=timezone.now(),
    )


def addresses(evening: dict[str, Run]) -> dict[str, str]:
    """Every page of ours."""
    incident = Incident.objects.order_by("id").values_list("pk", flat=True)[0]
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
        "silence": f"/admin/triage/care/?do=silence&incident={incident}",
        "group": f"/admin/triage/groups/{incident}/",
        "fork": f"/admin/forks/{Fork.objects.get().pk}/",
        "fork_ask": f"/admin/runs/{evening['completed'].pk}/fork/",
        "reset": f"/admin/runs/{evening['stuck'].pk}/reset/",
        **runs,
        **tabs,
    }


WIDTHS = {"wide": 1440, "phone": 390}


def look(page: Page, name: str) -> list[str]:
    """What is wrong with the page that is open, in each size and theme, all of it in view."""
    wrong: list[str] = []
    page.evaluate(AXE)
    for size, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        assert_no_sideways_scroll(page)
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": width, "height": min(int(height) + 50, 6000)})
        wrong += [f"{name}, {size}: {each}" for each in page.evaluate(RUN_AXE)]
        for theme in each_theme(page):
            found = page.evaluate(CHECKS, ".bo")
            assert found["looked"] > 5, f"{name}: hardly any text was looked at"
            wrong += [f"{name}, {size}, {theme}: {each}" for each in found["wrong"]]
            shoot(page, f"{name}_{size}_{theme}")
    return wrong


class TestEveryPage:
    @pytest.mark.parametrize("half", [0, 1])
    def test_has_names_labels_structure_and_contrast_in_each_size_and_theme(
        self, open_page: OpenPage, evening: dict[str, Run], half: int
    ) -> None:
        """In two halves, which two workers take."""
        page = open_page(size="wide")
        wrong = []
        for name, address in list(addresses(evening).items())[half::2]:
            page.goto(address)
            wrong += look(page, name)
        assert wrong == []

    @pytest.mark.parametrize(
        "address", ["/admin/saga/run/", "/admin/ledger/account/", "/admin/orders/order/", "/admin/login/"]
    )
    def test_of_the_shell_alone_has_names_and_structure(
        self, open_page: OpenPage, evening: dict[str, Run], address: str
    ) -> None:
        page = open_page(login="login" not in address)
        page.goto(address)
        page.evaluate(AXE)
        assert page.evaluate(RUN_AXE) == []

    def test_would_be_found_wrong_if_it_were(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto("/admin/")
        page.evaluate("(html) => { document.querySelector('.bo').outerHTML = html }", BAD)
        page.evaluate(AXE)
        found = [*page.evaluate(CHECKS, ".bo")["wrong"], *page.evaluate(RUN_AXE)]
        for expected in ("contrast", "label:", "button-name:", "without a caption", "without a scope", "without a role"):
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

    def test_goes_around_the_menu_first(self, open_page: OpenPage, evening: dict[str, Run]) -> None:
        page = open_page(size="wide")
        page.goto("/admin/")
        page.keyboard.press("Tab")
        way = page.locator(".bo-skip")
        expect(way).to_be_focused()
        expect(way).to_be_in_viewport()
        shoot(page, "skip")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('#content') !== null")

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
