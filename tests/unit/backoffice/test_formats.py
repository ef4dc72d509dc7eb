"""Numbers and times as people read them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone, translation

from apps.backoffice.components import formats

NOW = datetime(2026, 11, 22, 1, 14, 7, 123_000, tzinfo=UTC)  # 22:14:07 of the 21st in São Paulo


@pytest.fixture(autouse=True)
def sao_paulo() -> object:
    with timezone.override(ZoneInfo("America/Sao_Paulo")), translation.override("en"):
        yield


class TestMoney:
    @pytest.mark.parametrize(
        ("value", "english", "portuguese"),
        [
            ("1284.5", "R$\u00a01,284.50", "R$\u00a01.284,50"),
            ("-5", "\u2212R$\u00a05.00", "\u2212R$\u00a05,00"),
            ("0", "R$\u00a00.00", "R$\u00a00,00"),
            ("-0.00", "R$\u00a00.00", "R$\u00a00,00"),
            ("9999999999999.99", "R$\u00a09,999,999,999,999.99", "R$\u00a09.999.999.999.999,99"),
        ],
    )
    def test_has_two_places_its_currency_and_its_sign(self, value: str, english: str, portuguese: str) -> None:
        assert formats.money(Decimal(value)) == english
        assert formats.money(Decimal(value), language="pt-br") == portuguese

    def test_that_is_unknown_is_a_dash(self) -> None:
        assert formats.money(None) == "—"

    def test_of_another_currency_says_so(self) -> None:
        assert formats.money(Decimal(3), currency="USD") == "USD\u00a03.00"

    def test_follows_the_active_language(self) -> None:
        with translation.override("pt-br"):
            assert formats.money(Decimal("1284.5")) == "R$\u00a01.284,50"


class TestDuration:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (timedelta(0), "0 ms"),
            (timedelta(milliseconds=840), "840 ms"),
            (timedelta(milliseconds=999.9), "999 ms"),
            (timedelta(seconds=2, milliseconds=100), "2.1 s"),
            (timedelta(seconds=48), "48 s"),
            (timedelta(minutes=21, seconds=40), "21 min 40 s"),
            (timedelta(minutes=3, seconds=5), "3 min 05 s"),
            (timedelta(hours=3, minutes=5), "3 h 05 min"),
            (timedelta(days=2, hours=4), "2 d 4 h"),
            (timedelta(seconds=-1), "0 ms"),
        ],
    )
    def test_uses_the_two_units_that_matter(self, value: timedelta, text: str) -> None:
        assert formats.duration(value).replace("\u00a0", " ") == text

    def test_has_a_decimal_comma_in_portuguese(self) -> None:
        assert formats.duration(timedelta(seconds=2.1), language="pt-br") == "2,1\u00a0s"

    def test_that_has_not_begun_is_a_dash(self) -> None:
        assert formats.duration(None) == "—"


class TestMoment:
    @pytest.mark.parametrize(
        ("value", "english", "portuguese"),
        [
            (NOW, "22:14:07", "22:14:07"),
            (NOW - timedelta(days=1), "20 Nov 22:14", "20/11 22:14"),
            (NOW - timedelta(days=365), "21 Nov 2025", "21/11/2025"),
            # Another day in UTC, the same day for the person who looks.
            (datetime(2026, 11, 21, 3, 0, tzinfo=UTC), "00:00:00", "00:00:00"),
            (datetime(2026, 11, 21, 2, 59, tzinfo=UTC), "20 Nov 23:59", "20/11 23:59"),
        ],
    )
    def test_is_as_long_as_it_must_be(self, value: datetime, english: str, portuguese: str) -> None:
        assert formats.moment(value, now=NOW).text == english
        assert formats.moment(value, now=NOW, language="pt-br").text == portuguese

    def test_keeps_utc_for_hovering(self) -> None:
        assert formats.moment(NOW, now=NOW).utc == "2026-11-22T01:14:07.123Z"

    def test_can_be_exact(self) -> None:
        assert formats.moment(NOW, now=NOW, exact=True).text == "22:14:07.123"
        assert formats.moment(NOW, now=NOW, exact=True, language="pt-br").text == "22:14:07,123"
        assert formats.moment(NOW - timedelta(days=1), now=NOW, exact=True).text == "20 Nov 22:14:07.123"


class TestWords:
    def test_counts_have_their_noun(self) -> None:
        assert formats.plural(1, "run", "runs") == "1 run"
        assert formats.plural(0, "run", "runs") == "0 runs"
        assert formats.plural(1284, "run", "runs") == "1,284 runs"

    def test_names_become_words(self) -> None:
        assert formats.words("authorise_payment") == "authorise payment"
        assert formats.sentence("AUTHORISE_PAYMENT") == "Authorise payment"
        assert formats.sentence("") == ""

    def test_a_document_key_is_read_in_groups_of_four(self) -> None:
        assert formats.document_key("35261111222333") == "3526 1111 2223 33"

    def test_a_long_id_is_shortened_and_a_short_one_is_not(self) -> None:
        assert formats.short_id("01a1fe33-5f2f-7ad4-b007-05970f18fe5c") == "01a1fe33…18fe5c"
        assert formats.short_id("2026-11-21-004817") == "2026-11-21-004817"

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("permission:orders.approve_return", "whoever may approve return"),
            ("group:bosses", "the group bosses"),
            ("scope:sagas:operate", "an account with the scope sagas:operate"),
            ("the pricing service", "the pricing service"),
        ],
    )
    def test_whoever_decides_is_told_as_people_are(self, name: str, text: str) -> None:
        assert formats.deciders([name]) == text
