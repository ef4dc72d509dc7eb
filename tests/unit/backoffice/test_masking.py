"""What a page must not show, it does not show."""

import pytest

from apps.backoffice.components.masking import mask, mask_token
from apps.observability.masking import HIDDEN, mask_cpf, mask_text

CARD, CPF = "4242424242424242", "39053344705"


class TestMask:
    @pytest.mark.parametrize("key", ["secret", "password", "cvv", "CVV", "number", "card-number", "pan", "Authorization"])
    def test_hides_secrets_whatever_they_hold(self, key: str) -> None:
        assert mask({key: "visible?"}) == {key: HIDDEN}
        assert mask({key: 123}) == {key: HIDDEN}

    def test_reaches_into_lists_and_objects(self) -> None:
        shown = mask({"body": {"cards": [{"cvv": "123", "last4": "4242"}], "note": f"paid with {CARD}"}})
        assert shown == {"body": {"cards": [{"cvv": HIDDEN, "last4": "4242"}], "note": "paid with ****4242"}}

    def test_shows_too_little_of_a_token_to_pay_with(self) -> None:
        assert mask({"card_token": "tok_1234567890"}) == {"card_token": "tok_1234…"}
        assert mask_token("short") == HIDDEN

    def test_masks_a_cpf_by_its_name_and_by_its_shape(self) -> None:
        assert mask({"cpf": CPF, "recipient_cpf": CPF}) == {
            "cpf": "•••.•••.447\u2011••",
            "recipient_cpf": "•••.•••.447\u2011••",
        }
        assert mask_text("CPF 390.533.447-05 refused") == "CPF •••.•••.447\u2011•• refused"
        assert mask_cpf("123") == HIDDEN

    def test_leaves_ids_amounts_and_document_keys_readable(self) -> None:
        value = {
            "order_id": "01a1fe33-5f2f-7ad4-b007-05970f18fe5c",
            "amount": "10.50",
            "number": None,
            "access_key": "35261111222333000181650010000184421482139709",
            "items": [1, True, None],
        }
        assert mask(value) == value

    def test_ends_however_deep_the_value_is(self) -> None:
        deep: dict[str, object] = {}
        for _ in range(50):
            deep = {"inner": deep}
        assert "…" in str(mask(deep))
