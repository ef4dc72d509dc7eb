"""The back office's page for replays: who may, what it shows, what it keeps; and how dead letters look there."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from apps.messaging import replay_page
from apps.messaging.models import DeadLetterReplay, Message
from apps.messaging.relay import relay_all
from tests.integration.messaging.letters import Refusal, bury, give, record, replayed
from tests.integration.messaging.world import TOPIC, Reader, post

pytestmark = pytest.mark.django_db

LIST = "admin:messaging_message_changelist"
REASON = "the lock is gone"
QUERIES_MAX = 20  # of a list: it does not grow with its rows


@pytest.fixture(autouse=True)
def reader() -> Iterator[Reader]:
    made = Reader("g")
    yield made
    made.close()


@pytest.fixture
def chief() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("chief", password="a long one"))
    return client


def staff(*permissions: str) -> Client:
    user = User.objects.create_user(f"staff{len(permissions)}", password="a long one", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def ask(client: Client, *letters: UUID, confirmed: bool = False, reason: str = "", **more: Any) -> Any:
    fields = {"action": "replay", "_selected_action": [str(one) for one in letters], "select_across": "0", **more}
    if confirmed:
        fields |= {"confirmed": "1", "reason": reason}
    else:
        fields |= {"index": "0"}
    return client.post(reverse(LIST), fields)


def sent() -> list[int]:
    rows = Message.objects.filter(topic=TOPIC, pk__in=DeadLetterReplay.objects.values("pk")).order_by("seq")
    return [row.body["n"] for row in rows]


def page(client: Client, message: UUID) -> str:
    return str(client.get(reverse("admin:messaging_message_change", args=[message])).content.decode())


class TestReplay:
    def test_asks_why_before_it_does_anything(self, chief: Client) -> None:
        letter = bury(1, error=Refusal("sold out"))
        answer = ask(chief, letter)
        html = answer.content.decode()
        assert answer.status_code == 200
        for words in ("1 dead letter to send again", "If you replay now", "Refusal: sold out", "R999", str(letter)):
            assert words in html
        assert sent() == []
        assert LogEntry.objects.count() == 0

    def test_sends_the_chosen_ones_in_order_and_keeps_who_and_why(self, chief: Client) -> None:
        letters = [bury(n) for n in range(4)]
        answer = ask(chief, *reversed(letters[1:]), confirmed=True, reason=REASON)
        assert answer["Location"] == reverse(LIST)
        assert sent() == [1, 2, 3]
        assert set(DeadLetterReplay.objects.values_list("replayed_by", "reason")) == {("chief", REASON)}
        entries = LogEntry.objects.values_list("object_id", "user__username", "change_message")
        assert set(entries) == {(str(one), "chief", f"Replay asked for: {REASON}") for one in letters[1:]}
        assert "3 messages are on the way again." in chief.get(reverse(LIST)).content.decode()

    @pytest.mark.parametrize("reason", ["", "  ", "ok", "x" * 501])
    def test_without_a_reason_nothing_is_sent(self, chief: Client, reason: str) -> None:
        letter = bury(1)
        answer = ask(chief, letter, confirmed=True, reason=reason)
        assert answer.status_code == 422
        assert 'role="alert"' in answer.content.decode()
        assert str(letter) in answer.content.decode()
        assert sent() == []

    def test_the_second_click_sends_nothing(self, chief: Client) -> None:
        letter = bury(1)
        ask(chief, letter, confirmed=True, reason=REASON)
        html = ask(chief, letter, confirmed=True, reason=REASON).content.decode()
        assert "Nothing to send again" in html
        assert "1 of the selected are no dead letters, or were replayed before" in html
        assert sent() == [1]

    def test_leaves_other_messages_alone(self, chief: Client) -> None:
        letter = bury(1)
        post(2)
        other = Message.objects.get(topic=TOPIC).pk
        html = ask(chief, letter, other).content.decode()
        assert "1 dead letter to send again" in html
        ask(chief, letter, other, confirmed=True, reason=REASON)
        assert sent() == [1]

    def test_does_not_take_a_letter_whose_original_was_chosen(self, chief: Client) -> None:
        first = bury(1)
        ask(chief, first, confirmed=True, reason=REASON)
        row = Message.objects.get(topic=TOPIC)
        bury(record(1, message_id=row.pk))
        assert "Nothing to send again" in ask(chief, row.pk).content.decode()

    def test_tells_of_those_that_need_a_correction(self, chief: Client) -> None:
        give(record(5, value=b"nonsense"))
        (unreadable,) = Message.objects.values_list("pk", flat=True)
        letter = bury(1)
        html = ask(chief, unreadable, letter).content.decode()
        assert "1 cannot be sent as it is" in html
        assert "R602" in html
        ask(chief, unreadable, letter, confirmed=True, reason=REASON)
        assert sent() == [1]
        html = ask(chief, unreadable, confirmed=True, reason=REASON).content.decode()
        assert "Nothing to send again" in html

    def test_takes_a_bounded_number_at_once(self, chief: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay_page, "LETTERS_MAX", 2)
        letters = [bury(n) for n in range(3)]
        answer = ask(chief, letters[0], select_across="1")
        assert answer["Location"] == reverse(LIST)
        assert "2 at most" in chief.get(reverse(LIST)).content.decode()
        assert "2 dead letters to send again" in ask(chief, *letters[:2]).content.decode()

    def test_shows_no_card_number(self, chief: Client) -> None:
        letter = bury(1, error=RuntimeError("card 4242424242424242"))
        for html in (ask(chief, letter).content.decode(), page(chief, letter)):
            assert "4242424242424242" not in html
            assert "****4242" in html


class TestPermission:
    def test_to_look_is_not_to_replay(self) -> None:
        letter = bury(1)
        client = staff("view_message")
        html = client.get(reverse(LIST)).content.decode()
        assert str(letter) in html
        assert "Replay dead letters" not in html
        ask(client, letter)
        ask(client, letter, confirmed=True, reason=REASON)
        assert sent() == []

    def test_to_replay_one_must_be_allowed_to(self) -> None:
        letter = bury(1)
        client = staff("view_message", "add_deadletterreplay")
        assert "Replay dead letters" in client.get(reverse(LIST)).content.decode()
        ask(client, letter, confirmed=True, reason=REASON)
        assert sent() == [1]

    def test_the_verb_of_the_page_asks_too(self, rf: Any) -> None:
        request = rf.post("/")
        request.user = User.objects.create_user("stranger")
        with pytest.raises(PermissionDenied):
            replay_page.answer(request, Message.objects.all(), None)  # type: ignore[arg-type]


class TestLooks:
    def test_the_list_calls_a_replayed_letter_so(self, chief: Client) -> None:
        one, two = bury(1), bury(2)
        relay_all()
        replayed(one)
        for letter, word in ((one, "Replayed"), (two, "Dead letter")):
            html = chief.get(reverse(LIST), {"q": str(letter)}).content.decode()
            assert re.findall(r"</svg>(Replayed|Dead letter)</span>", html) == [word]

    def test_the_filters_tell_those_that_need_a_person_from_those_that_do_not(self, chief: Client) -> None:
        one, two = bury(1), bury(2)
        replayed(one)
        found = {
            kind: [
                letter for letter in (one, two) if str(letter) in chief.get(reverse(LIST), {"kind": kind}).content.decode()
            ]
            for kind in ("dead", "replayed", "pending")
        }
        assert found == {"dead": [two], "replayed": [one], "pending": [one, two]}

    def test_the_page_of_a_letter_says_why_where_from_and_what_became_of_it(self, chief: Client) -> None:
        letter = bury(record(7, offset=41), error=Refusal("sold out"))
        html = page(chief, letter)
        for words in ("R999 · Refusal: sold out", "after 1 attempt", TOPIC, "partition 0 at 41", "buried by g"):
            assert words in html
        assert "Not replayed." in html
        row = replayed(letter)
        html = page(chief, letter)
        assert "by chief: mended" in html
        assert str(row.pk) in html

    def test_a_letter_and_its_replay_lead_to_each_other(self, chief: Client) -> None:
        letter = bury(1)
        ask(chief, letter, confirmed=True, reason=REASON)
        (sent_as,) = DeadLetterReplay.objects.values_list("pk", flat=True)
        assert reverse("admin:messaging_message_change", args=[sent_as]) in page(chief, letter)
        assert reverse("admin:messaging_message_change", args=[letter]) in page(chief, sent_as)

    def test_the_page_of_another_message_has_none_of_it(self, chief: Client) -> None:
        post(1)
        html = page(chief, Message.objects.get(topic=TOPIC).pk)
        for words in ("Came from", "Replay of", "Replayed"):
            assert words not in html

    def test_replays_have_a_list_and_are_found_by_either_id(self, chief: Client) -> None:
        letter = bury(1)
        row = replayed(letter)
        url = reverse("admin:messaging_deadletterreplay_changelist")
        for term in ("", str(letter), str(row.pk)):
            assert "mended" in chief.get(url, {"q": term}).content.decode()
        for term in (str(UUID(int=1)), "nonsense"):
            assert "mended" not in chief.get(url, {"q": term}).content.decode()
        assert "chief" in chief.get(reverse("admin:messaging_deadletterreplay_change", args=[row.pk])).content.decode()

    def test_the_lists_need_a_bounded_number_of_queries(self, chief: Client, django_assert_max_num_queries: Any) -> None:
        for n in range(12):
            replayed(bury(n))
        for name in (LIST, "admin:messaging_deadletterreplay_changelist"):
            with django_assert_max_num_queries(QUERIES_MAX):
                chief.get(reverse(name))
