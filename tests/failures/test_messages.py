"""Messages between processes that are killed: every number of every key once, in order, at the effect."""

import signal
import threading

import pytest
from django.db import connections, transaction

from apps.messaging.models import Pending
from apps.messaging.public import publish
from tests.deployment import UNTIL_S, Deployment
from tests.failures.deployed.numbers import GROUPS, Numbered
from tests.failures.numbered import Keys, Load

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("distributed"), pytest.mark.timeout(600)]


class TestCommitOrder:
    def test_skips_no_message_whose_lower_number_commits_last(self, deployed: Deployment) -> None:
        deployed.scale(relay=2, consume=2)
        keys = Keys(16)
        names = list(keys.published)
        # Each transaction draws its sequence number while all before it are open, and they commit in reverse.
        drawn = [threading.Event() for _ in names]
        committed = [threading.Event() for _ in names]
        errors: list[BaseException] = []

        def hold(at: int) -> None:
            try:
                assert at == 0 or drawn[at - 1].wait(UNTIL_S)
                with transaction.atomic():
                    publish(Numbered(key=names[at], n=1), key=names[at])
                    drawn[at].set()
                    assert at == len(names) - 1 or committed[at + 1].wait(UNTIL_S)
                keys.published[names[at]] = 1
                # It has come through before the one with the lower number is there to be seen.
                deployed.until(lambda: keys.count() >= (len(names) - at) * len(GROUPS), what=f"message {at} arrives")
            except BaseException as error:  # raised below
                errors.append(error)
            finally:
                committed[at].set()
                connections.close_all()

        threads = [threading.Thread(target=hold, args=(at,)) for at in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * UNTIL_S)
        assert not errors, errors
        keys.all_arrive(deployed)


@pytest.mark.distributed
class TestKilled:
    def test_relay_between_acknowledgement_and_delete(self, deployed: Deployment) -> None:
        deployed.scale(consume=2, relay=1)
        deployed.until(lambda: not Pending.objects.exists(), what="what earlier tests left is relayed")
        deployed.scale(consume=2)
        keys = Keys(10)
        keys.publish_rounds(30)
        victim = deployed.start("relay", BREAK_AT="relay.acknowledged")
        assert victim.wait() == -9, victim.text
        assert int(deployed.mark("relay.acknowledged")) > 0
        assert Pending.objects.count() == 300, "the rows were deleted before the relay died"
        deployed.scale(consume=2, relay=2)
        keys.all_arrive(deployed)

    def test_consumer_between_the_database_and_the_offset(self, deployed: Deployment) -> None:
        deployed.scale(relay=2)
        keys = Keys(10)
        points = {f"{group}.{when}" for group in GROUPS for when in ("inside", "committed")}
        # In the middle of a batch: some of what it read is done, some is not.
        for _ in range(3):
            deployed.start("consume", BREAK_AT=",".join(points), BREAK_AFTER="25")
        with Load(keys):
            deployed.until(lambda: deployed.marks() >= points, what="a consumer dies at each point", revive=True)
        keys.all_arrive(deployed, revive=True)
        assert len(deployed.deaths) >= 3


@pytest.mark.distributed
class TestRebalance:
    def test_keeps_order_and_count_while_processes_stall_die_come_and_leave(self, deployed: Deployment) -> None:
        deployed.scale(relay=2, consume=3)
        keys = Keys(40)
        relay, consumer, leaving = (deployed.programs[name] for name in ("relay-1", "consume-1", "consume-2"))
        with Load(keys):
            keys.flow(deployed)
            # They stall for longer than their leases and sessions, with work in hand, and then go on with it.
            for program in (relay, consumer):
                program.signal(signal.SIGSTOP)
            keys.flow(deployed)
            for program in (relay, consumer):
                program.signal(signal.SIGCONT)
            keys.flow(deployed)
            for program in (relay, consumer):
                program.kill()
                deployed.start(program.name.split("-")[0], name=f"{program.name}-again")
            keys.flow(deployed)
            leaving.ask_to_stop()
            assert leaving.wait() == 0, leaving.text
            deployed.start("consume")
            keys.flow(deployed)
        keys.all_arrive(deployed)
