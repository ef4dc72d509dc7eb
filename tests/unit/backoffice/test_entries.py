"""Whose a posting or a hold is."""

from uuid import UUID

import pytest

from apps.backoffice.components.entries import order_of, run_of_key, told_of

ID = UUID("f4ddbe79-cc03-4046-96a0-ae692718922c")


class TestTold:
    def test_an_order_and_a_run_lead_to_their_pages(self) -> None:
        order = told_of(f"Order {ID}", "Card sale")
        assert (order.text[:6], order.href, order.whole) == ("Order ", f"/admin/orders/order/{ID}/change/", str(ID))
        run = told_of("", f"{ID}:3")
        assert (run.text[:4], run.href, run.whole) == ("Run ", f"/admin/runs/{ID}/", f"{ID}:3")

    @pytest.mark.parametrize(
        ("description", "otherwise", "text"),
        [("Rent", "x", "Rent"), ("", "Card sale", "Card sale"), ("", "", "no description"), ("Order 1", "x", "Order 1")],
    )
    def test_else_it_is_called_what_it_says(self, description: str, otherwise: str, text: str) -> None:
        told = told_of(description, otherwise)
        assert (told.text, told.href) == (text, "")

    @pytest.mark.parametrize("key", [f"{ID}:0", f"{ID}:12", f"{ID}:0~1"])
    def test_a_key_names_its_run(self, key: str) -> None:
        assert run_of_key(key) == ID

    @pytest.mark.parametrize("key", ["", "a hold", str(ID), f"{ID}:", f"{ID}:1:undo", f"x{ID}:1"])
    def test_another_key_names_none(self, key: str) -> None:
        assert run_of_key(key) is None
        assert order_of(key) is None
