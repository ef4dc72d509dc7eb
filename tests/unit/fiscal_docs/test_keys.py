"""Access keys and their check digits."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.fiscal_docs import keys

ALPHANUMERIC = "35261112ABC34501DE35550010000001231123456788"


class TestCheckDigit:
    @pytest.mark.parametrize(
        "key",
        ["35200159594315000157550010000000012062777161", "41170706117473000150550010000463202612756525", ALPHANUMERIC],
        ids=["published", "published too", "CNPJ with letters"],
    )
    def test_agrees_with_known_keys(self, key: str) -> None:
        assert keys.check_digit(key[:43]) == key[43]
        assert str(keys.parse(key)) == key

    @settings(deadline=None)
    @given(base=st.from_regex(r"[0-9]{6}[0-9A-Z]{12}[0-9]{25}", fullmatch=True), place=st.integers(18, 42))
    def test_notices_one_wrong_digit(self, base: str, place: int) -> None:
        changed = base[:place] + str((int(base[place]) + 5) % 10) + base[place + 1 :]
        texts = (base, changed)
        rests = {sum((ord(c) - 48) * (2 + i % 8) for i, c in enumerate(reversed(text))) % 11 for text in texts}
        # Rests 0 and 1 share the digit 0: the one thing that this check digit cannot see.
        assert (keys.check_digit(base) != keys.check_digit(changed)) == (rests != {0, 1})

    @pytest.mark.parametrize(
        "text", ["", "1" * 44, ALPHANUMERIC.lower(), ALPHANUMERIC[:-1] + "9", ALPHANUMERIC + "0", "３" * 44]
    )
    def test_parse_refuses_what_is_no_key(self, text: str) -> None:
        with pytest.raises(ValueError, match="no access key"):
            keys.parse(text)


class TestNewKey:
    def test_takes_its_month_from_sao_paulo(self) -> None:
        key = keys.new_key(
            uf_code="35",
            issued_at=datetime(2027, 1, 1, 2, 0, tzinfo=UTC),
            cnpj="12ABC34501DE35",
            kind="65",
            series=1,
            number=7,
        )
        assert str(key)[2:6] == "2612"

    @settings(deadline=None)
    @given(number=st.integers(1, keys.NUMBER_MAX), series=st.integers(0, keys.SERIES_MAX))
    def test_reads_back_as_it_was_made_and_never_repeats_the_number(self, number: int, series: int) -> None:
        key = keys.new_key(
            uf_code="35",
            issued_at=datetime(2026, 11, 21, tzinfo=UTC),
            cnpj="11222333000181",
            kind="55",
            series=series,
            number=number,
        )
        assert keys.parse(str(key)) == key
        assert int(key.code) != number

    def test_refuses_parts_that_make_no_key(self) -> None:
        key = keys.new_key(
            uf_code="35", issued_at=datetime(2026, 11, 21, tzinfo=UTC), cnpj="112", kind="655", series=1, number=1
        )
        with pytest.raises(ValueError, match="no access key"):
            str(key)


class TestCnpj:
    @pytest.mark.parametrize("cnpj", ["11222333000181", "12ABC34501DE35", "33014556000196"])
    def test_accepts_numeric_and_alphanumeric(self, cnpj: str) -> None:
        assert keys.cnpj_is_valid(cnpj)

    @pytest.mark.parametrize("cnpj", ["11222333000182", "12ABC34501DE36", "12abc34501de35", "0" * 14, "1122233300018", ""])
    def test_refuses_the_rest(self, cnpj: str) -> None:
        assert not keys.cnpj_is_valid(cnpj)


def test_grouped_is_eleven_groups_of_four() -> None:
    assert keys.grouped(ALPHANUMERIC).split() == [ALPHANUMERIC[n : n + 4] for n in range(0, 44, 4)]


class TestTheRandomPart:
    @pytest.mark.parametrize("drawn", [0, 77777777, 12345678, 90123456, 1234567, 42])
    def test_is_none_that_the_authority_refuses(self, drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """897: digits that are all the same or follow each other, and the number itself."""
        draws = iter([drawn, drawn, 31415926])
        monkeypatch.setattr(keys.secrets, "randbelow", lambda _: next(draws))
        key = keys.new_key(
            uf_code="35", issued_at=datetime(2026, 11, 1, tzinfo=UTC), cnpj="11222333000181", kind="65", series=1, number=42
        )
        assert key.code == "31415926"
