"""kill -9 of the ledger's batch consumer at every point, and the loss of its connection at every point."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone

from apps.ledger import public as ledger
from apps.ledger.models import Deferred, Transaction
from apps.messaging.models import Message, Redelivery
from tests.deployment import Deployment
from tests.failures import postings
from tests.failures.conftest import Tell, mode
from tests.failures.postings import ANSWERED_BY_ERROR, ANSWERS, ERROR, Asked
from tests.process import ROOT, database_url

pytestmark = pytest.mark.process

END_S = 580  # of the process that runs them all; pytest's own limit is the shorter one in `make test`


def on_this_database() -> dict[str, str]:
    """The environment of a process that works on the test's own database."""
    ours = {"DATABASE_URL": database_url(), "LASTRO_EMBEDDED": "1", "DJANGO_SETTINGS_MODULE": "tests.settings"}
    return {**os.environ, **ours, "MESSAGING_TRANSPORT": "local"}


def tell_points(environment: dict[str, str], *words: str) -> Any:
    """Run the consumers that die; what the points were, and what lies on the topic."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.failures.posting_points", *words],
        cwd=ROOT,
        env={**environment, "DATABASE_POOL_MAX": "0"},
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-5000:]}"
    return json.loads(done.stdout)


@contextmanager
def broken_for(kind: str) -> Iterator[None]:
    if kind == "breaking":
        postings.break_for_poison()
    try:
        yield
    finally:
        postings.mend()


def kill_at_every_point(environment: dict[str, str], kind: str, how: str) -> list[str]:
    """Do it, and prove what is left: the labels of the points."""
    now = timezone.now()
    postings.open_bank(now)
    before = {ref: ledger.balance(ref).posted for ref in postings.ACCOUNTS}
    with broken_for(kind):
        told = tell_points(environment, kind, how, now.isoformat())
    names = [point["name"] for point in told["points"]]
    asked = dict(postings.all_of(kind, names, now=now))
    labels = {point["name"]: point["label"] for point in told["points"]}
    prove(asked, labels, told["answers"])
    moved: dict[ledger.AccountRef, Decimal] = Counter()
    for one in [one for requests in asked.values() for one in requests]:
        for ref, amount in one.moves:
            moved[ref] += amount
    assert {ref: ledger.balance(ref).posted - before[ref] for ref in postings.ACCOUNTS} == {
        ref: moved[ref] for ref in postings.ACCOUNTS
    }
    assert ledger.check_balances() == []
    assert not Redelivery.objects.exists()
    while roll_up():
        pass
    assert ledger.check_balances() == []
    return [label for label in labels.values() if label]


def roll_up() -> int:
    with transaction.atomic():
        return ledger.roll_up(now=timezone.now())


def prove(asked: dict[str, list[Asked]], labels: dict[str, str], on_topic: list[list[Any]]) -> None:
    """Every request had its one end: posted once and called back, refused and called back, or buried once."""
    lines = Counter(Transaction.objects.values_list("tracekey", flat=True))
    lines.update(Deferred.objects.values_list("tracekey", flat=True))
    published: dict[UUID, list[Any]] = defaultdict(list)
    for row in Message.objects.filter(topic=ANSWERS):
        published[UUID(row.body["tracekey"])].append(row.body)
    called: dict[UUID, list[Any]] = defaultdict(list)
    for tracekey, body in on_topic:
        called[UUID(tracekey)].append(body)
    buried = Counter(str(row.body.get("tracekey") or row.body.get("raw")) for row in Message.objects.filter(topic=ERROR))
    for name, requests in asked.items():
        where = f"{name}: {labels[name]}"
        for one in requests:
            answers = [answer["code"] or answer["result"] for answer in published[one.tracekey]]
            expected = [] if one.outcome == ANSWERED_BY_ERROR else [one.outcome]
            assert answers == expected, f"{where}: answered {answers}, not {expected}"
            assert lines[one.tracekey] == len(one.moves), f"{where}: {lines[one.tracekey]} lines"
            assert all(body == published[one.tracekey][0] for body in called[one.tracekey]), where
            assert len(called[one.tracekey]) >= len(expected), f"{where}: never called back"
            words = str(one.tracekey) if one.record.value.startswith(b"{") else one.record.value.decode()
            assert buried[words] == (one.outcome == ANSWERED_BY_ERROR), f"{where}: buried {buried[words]} times"


# What the points must have been among, or nothing was enumerated.
WRITES = {
    "small": "INSERT INTO ledger_transaction",
    "large": "COPY ledger_transaction",
    "breaking": "SELECT ledger_post_line",
}
STEPS = ("INSERT INTO messaging_inbox", "BaseConnection._commit_gen")


def assert_everywhere(labels: list[str], kind: str) -> None:
    missing = [step for step in (WRITES[kind], *STEPS) if not any(label.startswith(step) for label in labels)]
    assert not missing, labels


@pytest.mark.django_db(transaction=True)
class TestKilledAtEveryPoint:
    def test_posts_once_and_calls_back(self, tell: Tell) -> None:
        labels = kill_at_every_point(on_this_database(), "small", "before")
        tell("small, before", f"{len(labels)} points")
        assert_everywhere(labels, "small")

    @pytest.mark.distributed
    @pytest.mark.parametrize("how", ["before", "in_flight", "cut"])
    @pytest.mark.parametrize("kind", ["large", "breaking"])
    def test_posts_once_and_calls_back_whatever_it_has_in_hand(self, kind: str, how: str, tell: Tell) -> None:
        if mode() != "local":
            pytest.skip("on a server: see below")
        labels = kill_at_every_point(on_this_database(), kind, how)
        tell(f"{kind}, {how}", f"{len(labels)} points")
        assert_everywhere(labels, kind)


@pytest.mark.distributed
@pytest.mark.on_servers("kafka")
@pytest.mark.xdist_group("distributed")
class TestKilledAtEveryPointOnKafka:
    @pytest.mark.parametrize("how", ["before", "in_flight"])
    def test_posts_once_and_calls_back(self, how: str, deployed: Deployment, tell: Tell) -> None:
        deployed.scale()
        labels = kill_at_every_point(deployed.environment, "small", how)
        tell(how, f"{len(labels)} points")
        assert_everywhere(labels, "small")
        assert "OFFSETS" in labels


@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
class TestScenarioAmongKills:
    def test_ends_to_the_cent(self, deployed: Deployment, tell: Tell) -> None:
        """Relays and consumers are killed with the scenario's transactions in hand, and started again."""
        deployed.scale(relay=2, consume=2)
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(deployed.manage, "ledger_scenario", "--transactions", "2000", "--timeout", "240", "--json")
            for name in ("consume-1", "relay-1", "consume-2", "relay-2"):
                posted = Transaction.objects.count()
                deployed.until(lambda posted=posted: told.done() or Transaction.objects.count() > posted, what="it goes on")
                deployed.programs[name].kill()
                deployed.revive()
            deployed.until(told.done, what="the scenario ends", revive=True)
        found = json.loads(told.result())
        tell("scenario", f"{found['transactions']} transactions among kills in {found['seconds']} s")
        assert (found["unanswered"], found["differences"]) == (0, [])
        assert ledger.check_balances() == []
