"""The vault on the database: tokens, keys that change, and no card number anywhere."""

import base64
import os
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from pytest_django import Settings

from apps.common.transactions import transaction as transaction_word
from apps.idempotency.models import IdempotencyKey
from apps.idempotency.operations import _fingerprints as fingerprints
from apps.payments import public as payments
from apps.payments import vault
from apps.payments.management.commands import vault_reencrypt
from apps.payments.models import CardToken
from tests.integration.payments import world

pytestmark = pytest.mark.django_db


def new_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


class TestSaveCard:
    def test_gives_a_token_that_says_nothing_and_keeps_what_may_be_shown(self) -> None:
        view = world.save_card()
        assert view.token.startswith("tok_")
        assert len(view.token) == 4 + vault.TOKEN_CHARACTERS
        assert (view.bin6, view.last4, view.brand) == ("424242", "4242", "visa")
        assert view.token not in repr(view)

    def test_the_same_card_twice_is_two_tokens_with_one_fingerprint(self) -> None:
        one, two = world.save_card(), world.save_card()
        assert one.token != two.token
        assert CardToken.objects.values("fingerprint").distinct().count() == 1
        assert CardToken.objects.values("ciphertext").distinct().count() == 2

    def test_a_card_is_found_by_its_owner_alone(self) -> None:
        token = world.save_card(owner_id="acc_shop").token
        assert payments.card(token, owner_id="acc_shop").last4 == "4242"
        for asked in ({"token": token, "owner_id": "acc_other"}, {"token": "tok_"}, {"token": "tok_\x00"}):
            with pytest.raises(payments.UnknownCard):
                payments.card(**asked)


class TestKeys:
    def test_a_new_key_encrypts_and_the_old_one_still_decrypts(self, settings: Settings) -> None:
        old, new = new_key(), new_key()
        settings.VAULT_KEYS = [old]
        token = world.save_card().token
        settings.VAULT_KEYS = [new, old]
        world.save_card()
        assert vault._number(CardToken.objects.get(token=token)) == world.GOOD
        assert CardToken.objects.values("key_id").distinct().count() == 2

    def test_reencrypting_lets_the_old_key_go(self, settings: Settings) -> None:
        old, new = new_key(), new_key()
        settings.VAULT_KEYS = [old]
        token = world.save_card().token
        settings.VAULT_KEYS = [new, old]
        with transaction.atomic():
            assert vault.reencrypt() == 1
            assert vault.reencrypt() == 0
        settings.VAULT_KEYS = [new]
        assert vault._number(CardToken.objects.get(token=token)) == world.GOOD

    @pytest.mark.django_db(transaction=True)
    def test_the_command_brings_every_card_under_the_newest_key(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        old, new = new_key(), new_key()
        settings.VAULT_KEYS = [old]
        tokens = [world.save_card().token for _ in range(3)]
        settings.VAULT_KEYS = [new, old]
        monkeypatch.setattr(vault_reencrypt, "_batch", transaction_word(lambda: vault.reencrypt(rows_max=2)))
        call_command("vault_reencrypt")
        assert capsys.readouterr().out.splitlines()[-1].startswith("3 cards were encrypted anew.")
        settings.VAULT_KEYS = [new]
        assert {vault._number(CardToken.objects.get(token=token)) for token in tokens} == {world.GOOD}

    def test_a_ciphertext_that_is_moved_to_another_token_does_not_open(self) -> None:
        from cryptography.exceptions import InvalidTag

        one, two = (CardToken.objects.get(token=world.save_card().token) for _ in range(2))
        one.nonce, one.ciphertext = two.nonce, two.ciphertext
        with pytest.raises(InvalidTag):
            vault._number(one)


def everything_stored() -> dict[str, bytes]:
    """Every value of every text, json, bytea and array column of the database, by column."""
    kinds = ["text", "character varying", "character", "json", "jsonb", "bytea", "ARRAY"]
    found: dict[str, bytes] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = ANY(%s)",
            [kinds],
        )
        for table, column, kind in cursor.fetchall():
            cast = f'"{column}"' if kind == "bytea" else f"convert_to(\"{column}\"::text, 'UTF8')"
            cursor.execute(f'SELECT {cast} FROM "{table}" WHERE "{column}" IS NOT NULL')
            found[f"{table}.{column}"] = b"\n".join(bytes(row[0]) for row in cursor.fetchall())
    return found


class TestNoCardNumberIsStored:
    """PAN and CVV: the number below is in no other test, so that whatever holds it got it from here."""

    NUMBER = "4539578763621486"
    CVV = "739"

    def forms(self) -> list[bytes]:
        number = self.NUMBER
        shapes = [number, f"{number[:4]} {number[4:8]} {number[8:12]} {number[12:]}", number[::-1], number[:-1]]
        texts = [shape.encode() for shape in shapes]
        packed = [bytes.fromhex(number), base64.b64encode(number.encode()), number.encode().hex().encode()]
        return texts + packed

    def walk_every_flow(self, caplog: pytest.LogCaptureFixture) -> list[Any]:
        from tests.saga_driver import pump_messages

        client, _ = world.merchant()
        card = {"number": self.NUMBER, "exp_month": 12, "exp_year": 2030, "cvv": self.CVV, "holder": "A B"}
        bad = [{**card, "number": self.NUMBER[:-1] + "7"}, {**card, "cvv": "7"}, {**card, "exp_year": 2020}]
        responses = [client.post("/payments/cards", body, format="json") for body in [card, *bad]]
        for number, body in enumerate([card, *bad]):
            payment = {"amount": 10.5, "card": body, "reference": "r"}
            key = {"HTTP_IDEMPOTENCY_KEY": f"k{number}"}
            responses += [client.post("/payments", payment, format="json", **key) for _ in range(2)]  # type: ignore[arg-type]
        token = responses[0].json()["token"]
        responses.append(client.post("/payments", {"amount": "11.00", "card_token": token}, format="json"))
        pump_messages()
        responses.append(client.get("/payments"))
        responses.append(client.post("/payments/cards", f'{{"number": {self.NUMBER}, "x"', content_type="application/json"))
        return responses

    def test_not_in_the_database_nor_in_an_answer_nor_in_a_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        responses = self.walk_every_flow(caplog)
        stored = everything_stored()
        assert b"453957" in stored["payments_payment.card_bin"]  # The dump does see what is there.
        places = {**stored, "answers": b"".join(r.content for r in responses), "log": caplog.text.encode()}
        leaks = [(place, form) for place, content in places.items() for form in self.forms() if form in content]
        assert leaks == []

    def test_the_cvv_is_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        responses = self.walk_every_flow(caplog)
        quoted = f'"{self.CVV}"'.encode()
        assert not any(quoted in content for content in [*everything_stored().values(), *(r.content for r in responses)])
        with connection.cursor() as cursor:
            columns = connection.introspection.get_table_description(cursor, "payments_cardtoken")
        assert not any("cvv" in column.name or "code" in column.name for column in columns)

    def test_the_cvv_cannot_be_guessed_from_what_an_idempotency_key_remembers(self) -> None:
        """Three digits are a thousand guesses for somebody with the database and the secret."""
        client, _ = world.merchant()
        card = {"number": self.NUMBER, "exp_month": 12, "exp_year": 2030, "cvv": self.CVV}
        body = {"amount": "10.50", "card": card}
        client.post("/payments", body, format="json", HTTP_IDEMPOTENCY_KEY="k")
        kept = IdempotencyKey.objects.get()
        guesses = ({**body, "card": {**card, "cvv": f"{guess:03d}"}} for guess in range(1000))
        assert not any(bytes(kept.fingerprint) in fingerprints(kept.route, guess) for guess in guesses)
