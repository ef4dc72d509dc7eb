"""The page of a real run: what every neighbour knows about it stands on one page."""

from django.test import Client
from django.urls import reverse

from config import demo
from tests import shop
from tests.saga_driver import finish


class TestJoined:
    def test_shows_the_money_the_document_and_the_messages(self, opened: demo.Demo, chief: Client, client: Client) -> None:
        run = shop.run_of(shop.post_order(client).json()["id"])
        assert finish(run.pk).status == "COMPLETED"
        page = reverse("admin:backoffice_run", args=[run.pk])
        html = chief.get(page).content.decode()
        assert "Completed in" in html
        assert "Captured</span>" in html
        assert "Authorised</span>" in html
        assert html.count("0001 · ") == 2, "one line debits, one credits"
        assert "Visa •••• " in html or "Mastercard •••• " in html
        messages = chief.get(page, {"tab": "messages"}).content.decode()
        assert messages.count("Handled</span>") >= 4

    def test_shows_why_a_card_was_refused(self, opened: demo.Demo, chief: Client, client: Client) -> None:
        run = shop.run_of(shop.post_order(client, shop.by_card(opened.refused_card_token)).json()["id"])
        assert finish(run.pk).status == "COMPENSATED"
        html = chief.get(reverse("admin:backoffice_run", args=[run.pk])).content.decode()
        assert "Authorise payment was refused" in html
        assert "1 step undone in reverse order" in html
        assert opened.refused_card_token not in html
