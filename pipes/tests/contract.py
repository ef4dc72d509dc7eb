"""What pipes promise over every broker. Each broker's test file makes a class of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lastro_pipes import control, trace
from lastro_pipes.transports.base import Outgoing
from tests.chain import CHAIN, ROOT, STOP_S, Chain, running
from tests.world import meta_of

FIRST, SECOND, THIRD = CHAIN
ONCE = {"first": ["done"], "second": ["done"], "third": ["done"]}
SAGAS = 60


class ChainContract:
    """Three processes in a chain."""

    broker: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def chain(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
        """Processes that the tests share, because none of them ends."""
        with running(tmp_path_factory.mktemp("chain"), PIPES_BROKER=cls.broker) as made:
            yield made

    @pytest.fixture
    def fragile(self, tmp_path: Path) -> Iterator[Chain]:
        """Processes of one test's own, to be killed."""
        made = Chain(tmp_path, PIPES_BROKER=self.broker)
        yield made
        made.close()

    def test_a_saga_goes_through_all_three(self, chain: Chain) -> None:
        gid = chain.begin({"n": 1}, meta={"use-case": "shop.buy"})
        saga = chain.until_status(gid, "COMPLETED")
        assert saga.use_case == "shop.buy"
        assert chain.effects(gid) == ONCE
        assert chain.until_records(gid, "third.in")[0]["body"] == {"n": 1, "by": [FIRST, SECOND]}
        traces = {trace_id(record["meta"]["trace"]) for record in chain.records(gid, "")}
        assert len(traces) == 1
        assert {record["headers"]["traceparent"] for record in chain.records(gid, "")} == {
            record["meta"]["trace"] for record in chain.records(gid, "")
        }

    def test_a_refusal_in_the_third_undoes_the_second_and_then_the_first(self, chain: Chain) -> None:
        gid = chain.begin({"plan": {"third": "refuse"}})
        chain.until_status(gid, "COMPENSATED")
        assert chain.effects(gid) == {"first": ["done", "undo-done"], "second": ["done", "undo-done"], "third": []}
        undone = [r["body"]["service"] for r in chain.until_records(gid, "event", count=2, of="UNDONE")]
        assert undone == [SECOND, FIRST]
        assert [r["meta"]["error"]["code"] for r in chain.until_records(gid, "compensate", count=2)] == ["SOLD_OUT"] * 2

    def test_a_technical_failure_is_tried_again_and_the_saga_goes_on(self, chain: Chain) -> None:
        gid = chain.begin({"plan": {"second": ["fail", "fail", "do"]}})
        chain.until_status(gid, "COMPLETED")
        assert chain.effects(gid) == ONCE
        told = [r["body"]["outcome"] for r in chain.until_records(gid, "second.event", count=3)]
        assert told == ["RETRYING", "RETRYING", "DONE"]

    def test_after_its_last_attempt_a_message_is_a_dead_letter_and_a_retry_mends_it(self, chain: Chain) -> None:
        gid = chain.begin({"plan": {"second": "fail"}})
        chain.until_status(gid, "STUCK")
        (letter,) = chain.until(lambda: chain.records(gid, "error"), what="a letter")
        assert (letter["topic"], letter["meta"]["error"]["attempts"]) == (f"{SECOND}.error", 6)
        assert letter["headers"]["error-reason"] == "RuntimeError: the machine is broken"
        assert letter["headers"]["error-attempts"] == "6"
        assert letter["headers"]["error-topic"] == f"{SECOND}.in"
        assert trace.is_traceparent(letter["headers"]["traceparent"])
        chain.send(control.again(f"{SECOND}.in", gid, letter["meta"], {}))
        chain.until_status(gid, "COMPLETED")
        assert chain.effects(gid) == ONCE

    def test_poison_goes_to_the_error_topic_and_the_rest_goes_on(self, chain: Chain) -> None:
        before = len([record for record in chain.seen if record.topic == f"{FIRST}.error"])
        chain.send(
            Outgoing(f"{FIRST}.in", "k", "no JSON"),
            Outgoing(f"{FIRST}.in", "k", '{"meta": {"global-id": "p", "steps": ["second"]}, "body": {}}'),
            Outgoing(f"{FIRST}.in", "k", '{"meta": {"global-id": "p", "steps": ["first"], "position": 7}, "body": {}}'),
        )
        gid = chain.begin({}, key="k")
        chain.until_status(gid, "COMPLETED")

        def codes() -> list[str]:
            letters = [record for record in chain.seen if record.topic == f"{FIRST}.error"][before:]
            return sorted(letter.headers["error-code"] for letter in letters)

        chain.until(lambda: len(codes()) == 3, what="three letters")
        assert codes() == ["P001", "P002", "P003"]

    def test_copies_take_no_effect(self, chain: Chain) -> None:
        gid = chain.begin({})
        chain.until_status(gid, "COMPLETED")
        for record in [r for r in chain.seen if r.topic.endswith(".in") and gid.encode() in r.value]:
            chain.send(Outgoing(record.topic, record.key, record.value.decode(), tuple(record.headers.items())))
        other = chain.begin({}, key=gid)  # behind the copies
        chain.until_status(other, "COMPLETED")
        assert chain.effects(gid) == ONCE
        assert len(chain.until_records(gid, "event", count=3)) == 3

    def test_a_compensation_by_message_undoes_what_was_done(self, chain: Chain) -> None:
        gid = chain.begin({})
        chain.until_status(gid, "COMPLETED")
        chain.send(control.compensate(CHAIN, global_id=gid, position=0, code="CANCELLED", reason="by hand"))
        chain.until_status(gid, "COMPENSATED")
        undone = [r["body"]["service"] for r in chain.until_records(gid, "event", count=3, of="UNDONE")]
        assert undone == [THIRD, SECOND, FIRST]

    def test_each_key_keeps_its_order_also_behind_a_failure(self, chain: Chain) -> None:
        plans = [{"plan": {"second": ["fail", "do"]}} if n % 7 == 0 else {} for n in range(SAGAS)]
        gids = [chain.begin({**plan, "n": n}, key=f"key{n % 5}") for n, plan in enumerate(plans)]
        for gid in gids:
            chain.until_status(gid, "COMPLETED")
            chain.until_records(gid, "third.in")
        for key in range(5):
            wanted = gids[key::5]
            read = [r for r in chain.seen if r.topic == f"{THIRD}.in" and r.key == f"key{key}"]
            found = [record_gid(r.value) for r in read]
            assert [gid for gid in found if gid in wanted] == wanted

    @pytest.mark.parametrize("moment", ["before-commit", "after-commit", "after-publish", "after-mark"])
    def test_a_kill_between_effect_and_offset_leaves_one_effect(self, fragile: Chain, moment: str) -> None:
        fragile.wish(moment)
        (first,) = fragile.start(FIRST)
        gid = fragile.begin({})
        fragile.until(lambda: first.process.poll() is not None, what="the process is killed")
        assert first.process.returncode == -9
        fragile.start()
        fragile.until_status(gid, "COMPLETED")
        assert fragile.effects(gid) == ONCE
        sent = {r["meta"]["message-id"] for r in fragile.until_records(gid, "second.in")}
        assert len(sent) == 1, "said once, or twice under the same id"

    def test_a_kill_inside_a_handle_counts_as_an_attempt_and_leaves_no_effect(self, fragile: Chain) -> None:
        (first,) = fragile.start(FIRST)
        gid = fragile.begin({"plan": {"first": "slow"}})
        fragile.until(lambda: fragile.is_slow, what="the handle is called")
        first.kill()
        assert fragile.effects(gid)["first"] == []
        fragile.start()
        fragile.until_status(gid, "COMPLETED")
        assert fragile.effects(gid) == ONCE
        assert fragile.until_records(gid, "first.event")[0]["body"]["attempt"] == 2

    def test_a_stop_lets_a_handle_end(self, fragile: Chain) -> None:
        (first,) = fragile.start(FIRST)
        gid = fragile.begin({"plan": {"first": "slow"}, "slow_s": 2})
        fragile.until(lambda: fragile.is_slow, what="the handle is called")
        assert first.stop() < STOP_S
        assert first.process.returncode == 0
        assert fragile.effects(gid)["first"] == ["done"]
        fragile.until(lambda: fragile.records(gid, "second.in"), what="its answer is published")
        fragile.until(lambda: fragile.lag(FIRST) == 0, what="no lag")
        assert first.lines[-1]["message"].startswith("stopped")

    def test_a_stop_waits_no_longer_than_ten_seconds_for_a_handle(self, fragile: Chain) -> None:
        (first,) = fragile.start(FIRST)
        gid = fragile.begin({"plan": {"first": "slow"}})
        fragile.until(lambda: fragile.is_slow, what="the handle is called")
        assert first.stop() < STOP_S
        assert first.process.returncode == 1
        fragile.start()
        fragile.until_status(gid, "COMPLETED")
        assert fragile.effects(gid) == ONCE

    def test_two_members_share_the_work_and_one_takes_over_from_the_other(self, fragile: Chain) -> None:
        (_, stays, _), (dies,) = fragile.start(), fragile.start(SECOND)
        gids: list[str] = []

        def both_work() -> bool:
            gids.extend(fragile.begin({}) for _ in range(8))
            fragile.observe()
            return all(any(line["message"] == "done" for line in process.lines) for process in (stays, dies))

        fragile.until(both_work, what="both work")
        dies.kill()
        gids += [fragile.begin({"n": n}, key=f"k{n % 7}") for n in range(SAGAS)]
        for gid in gids:
            fragile.until_status(gid, "COMPLETED")
            assert fragile.effects(gid) == ONCE

    def test_what_a_process_logs_has_the_ids(self, chain: Chain) -> None:
        gid = chain.begin({})
        chain.until_status(gid, "COMPLETED")

        def said() -> list[dict[str, Any]]:
            return [line for line in chain.processes[0].lines if line.get("global_id") == gid]

        lines = chain.until(said, what="the first process says it")
        assert [line["message"] for line in lines] == ["done"]
        assert lines[0]["service"] == FIRST
        (asked,) = chain.until_records(gid, "first.in")
        assert lines[0]["message_id"] == asked["meta"]["message-id"]
        assert trace_id(lines[0]["trace"]) == trace_id(asked["meta"]["trace"])

    def test_the_lag_counts_what_nobody_has_worked_on(self, fragile: Chain) -> None:
        gids = [fragile.begin({}) for _ in range(12)]
        fragile.until(lambda: fragile.lag(FIRST) == 12, what="a lag of 12")
        fragile.start(FIRST)
        fragile.until(lambda: all(fragile.records(gid, "second.in") for gid in gids), what="the first has done its part")
        fragile.until(lambda: fragile.lag(FIRST) == 0, what="no lag")

    # The last one: it costs the shared processes above their connections.
    @pytest.mark.skipif(not os.environ.get("SERVICES_DIR"), reason="the broker is not one of the repository's own servers")
    def test_a_restart_of_the_broker_loses_nothing_and_costs_no_attempt(self, fragile: Chain) -> None:
        fragile.start()
        gids = [fragile.begin({"n": n}, key=f"k{n % 7}") for n in range(20)]
        fragile.until(lambda: any(fragile.saga(gid).status == "COMPLETED" for gid in gids), what="the first is done")
        for word in ("stop", "start"):
            command = [sys.executable, "-m", "config.services", word, self.broker]
            subprocess.run(command, cwd=ROOT.parent, check=True, capture_output=True, timeout=240)
        fragile.observe_again()
        gids += [fragile.begin({"n": n}, key=f"k{n % 7}") for n in range(20)]
        for gid in gids:
            fragile.until_status(gid, "COMPLETED")
            assert fragile.effects(gid) == ONCE
        assert not [record for record in fragile.seen if record.topic.endswith("error")]


def trace_id(text: str) -> str:
    """The part of a traceparent that a whole saga has in common."""
    assert trace.is_traceparent(text)
    return text.split("-")[1]


def record_gid(value: bytes) -> str:
    """The saga of a record."""
    return str(meta_of(Outgoing("", "", value.decode()))["global-id"])
