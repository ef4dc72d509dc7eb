"""The example of pipes/examples/shop: three real processes on a real broker, and what the state manager's tables say."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from django.db import transaction
from lastro_pipes import control, transports

from apps.messaging.contracts.saga import CompensationRequested
from apps.messaging.models import Message
from apps.messaging.public import publish
from apps.saga.definition import Definition, lookup
from apps.saga.models import Attempt, Run, Step
from apps.saga.pipes import PipeStep
from tests.pipes.shop import CARDS, PARCELS, SERVICES, STOCK, Hasty, Nagging, Shop, purchase
from tests.pipes.world import TellingHooks, registered

ALL = ["DONE"] * 3


def use_case(name: str = "shop.buy") -> Definition:
    return lookup(name, 1)


def statuses(run_id: UUID) -> list[str]:
    return list(Step.objects.filter(run_id=run_id).order_by("position").values_list("status", flat=True))


def attempts(run_id: UUID, position: int) -> list[tuple[bool, str]]:
    rows = Attempt.objects.filter(run_id=run_id, position=position).order_by("undo", "number")
    return [(undo, outcome) for undo, outcome in rows.values_list("undo", "outcome")]


def asked_here() -> int:
    """How many steps the state manager has asked. A step before the silent one may do, which says its answer again."""
    return Message.objects.filter(topic__in=[f"{service}.in" for service in SERVICES]).count()


class ShopContract:
    """What holds on every broker."""

    broker: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def hooks(cls) -> TellingHooks:
        return TellingHooks()

    @pytest.fixture(scope="class")
    @classmethod
    def shop(cls, hooks: TellingHooks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
        folder = tmp_path_factory.mktemp("shop")
        with contextlib.ExitStack() as stack:
            for name, step in (("shop.buy", PipeStep), ("shop.buy_nagging", Nagging), ("shop.buy_hastily", Hasty)):
                stack.enter_context(registered(purchase(name, step, hooks)))
            shop = Shop(Path(folder), cls.broker)
            with shop.open():
                yield shop

    @pytest.fixture(autouse=True)
    def everybody_is_there(self, transactional_db: None, shop: Shop) -> None:
        """The processes of the test before may be gone."""
        shop.gate.unlink(missing_ok=True)
        for service in SERVICES:
            process = shop.processes.get(service)
            if process is None or process.poll() is not None:
                shop.start(service)

    def test_all_is_well(self, shop: Shop, hooks: TellingHooks) -> None:
        run_id = shop.buy(use_case())
        run = shop.until_status(run_id, "COMPLETED")
        assert statuses(run_id) == ALL
        assert shop.effects(run_id) == (1, 1, 0, 1)
        assert run.steps[2].output["booked"] == f"{run_id}:2"
        assert [attempts(run_id, position) for position in range(3)] == [[(False, "DONE")]] * 3
        assert ("completed", "order 1") in hooks.told

    def test_a_refusal_at_the_third_step_undoes_the_second_and_the_first(self, shop: Shop) -> None:
        run_id = shop.buy(use_case(), kg=31)
        run = shop.until_status(run_id, "COMPENSATED")
        assert (run.failed_step, run.error_code) == ("book", "TOO_HEAVY")
        assert statuses(run_id) == ["UNDONE", "UNDONE", "FAILED"]
        assert shop.effects(run_id) == (0, 1, 1, 0)
        assert attempts(run_id, 0) == [(False, "DONE"), (True, "DONE")]

    def test_a_run_that_a_service_began(self, shop: Shop) -> None:
        own = transports.make(shop.settings(STOCK))
        body = {"sku": "lamp", "amount": "1.00", "address": "Rua B, 2"}
        assert own.send(
            [control.start(SERVICES, body, global_id=f"order-{shop.prefix}", meta={"use-case": "shop.buy"})]
        ) == [""]
        own.close()
        shop.until(lambda: Run.objects.filter(status="COMPLETED").exists(), "the run is known, and completed")
        run = Run.objects.get()
        assert (run.business_key, run.data) == (f"order-{shop.prefix}", body)
        assert statuses(run.pk) == ALL


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
@pytest.mark.timeout(600)
# kafka-python leaves the socket of a connection that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
class TestKafka(ShopContract):
    broker = "kafka"

    def test_a_process_that_is_killed_in_the_middle_of_its_work_goes_on(self, shop: Shop) -> None:
        shop.stop(CARDS)
        shop.gate.touch()
        shop.start(CARDS, slow=True)
        run_id = shop.buy(use_case())
        shop.until(lambda: Path(f"{shop.gate}.reached").exists(), "the charge is written, and not committed")
        shop.kill(CARDS)
        Path(f"{shop.gate}.reached").unlink()
        shop.gate.unlink()
        shop.turn()
        assert statuses(run_id)[1] != "DONE"
        shop.start(CARDS)
        shop.until_status(run_id, "COMPLETED")
        assert statuses(run_id) == ALL
        assert shop.effects(run_id) == (1, 1, 0, 1)

    def test_a_message_that_a_service_lost_is_sent_again(self, shop: Shop) -> None:
        shop.stop(CARDS)
        with shop.deaf(CARDS) as listen:
            run_id = shop.buy(use_case("shop.buy_nagging"))
            shop.until(listen, "the service's message is thrown away")
        shop.start(CARDS)
        shop.until_status(run_id, "COMPLETED")
        assert attempts(run_id, 1)[-1] == (False, "DONE")
        assert asked_here() > 1, "the first message is ours, and at least one that asks again"
        assert shop.effects(run_id) == (1, 1, 0, 1)

    def test_a_service_that_never_answers_is_given_up_and_what_was_done_is_undone(
        self, shop: Shop, hooks: TellingHooks
    ) -> None:
        shop.stop(CARDS)
        with shop.deaf(CARDS) as listen:
            run_id = shop.buy(use_case("shop.buy_hastily"))

            def has_turned() -> bool:
                listen()
                return Run.objects.filter(pk=run_id, status="COMPENSATING").exists()

            shop.until(has_turned, "the state manager turns the run round")
            # What was asked and has not been thrown away yet is not for the service that comes back.
            asked = Message.objects.filter(topic=f"{CARDS}.in").count()
            shop.until(lambda: listen() >= asked, "all that was asked is thrown away")
        shop.start(CARDS)
        run = shop.until_status(run_id, "COMPENSATED")
        assert (run.failed_step, run.error_code) == ("charge", "NoReport")
        assert statuses(run_id)[0] == "UNDONE"
        assert shop.effects(run_id) == (0, 0, 0, 0)
        assert hooks.told[-1] == ("compensated", "charge", "NoReport")

    def test_an_undo_by_message(self, shop: Shop) -> None:
        run_id = shop.buy(use_case())
        shop.until_status(run_id, "COMPLETED")
        with transaction.atomic():
            request = CompensationRequested(reason="the customer has called", requested_by="web", global_id=str(run_id))
            publish(request, key=str(run_id), reply_to="r-1")
        run = shop.until_status(run_id, "COMPENSATED")
        assert (run.error_code, statuses(run_id)) == ("ASKED_FOR", ["UNDONE"] * 3)
        assert shop.effects(run_id) == (0, 1, 1, 0)
        answer: Any = Message.objects.get(topic="saga.pipes.gsm.event").body
        assert (answer["accepted"], answer["run_id"]) == (True, str(run_id))

    def test_a_hundred_purchases_at_once(self, shop: Shop) -> None:
        ids = [shop.buy(use_case(), kg=31 if number % 3 == 0 else 1) for number in range(100)]
        wanted = ["COMPENSATED" if number % 3 == 0 else "COMPLETED" for number in range(100)]

        def status() -> list[str]:
            return [Run.objects.get(pk=run_id).status for run_id in ids]

        shop.until(lambda: not Run.objects.filter(finished_at__isnull=True).exists(), "all are over")
        assert status() == wanted
        for number, run_id in enumerate(ids):
            assert shop.effects(run_id) == ((0, 1, 1, 0) if number % 3 == 0 else (1, 1, 0, 1))


@pytest.mark.rabbitmq
@pytest.mark.xdist_group("rabbitmq")
@pytest.mark.timeout(600)
class TestRabbitMQ(ShopContract):
    broker = "rabbitmq"

    def test_a_message_that_a_service_lost_is_sent_again(self, shop: Shop) -> None:
        shop.stop(PARCELS)
        with shop.deaf(PARCELS) as listen:
            run_id = shop.buy(use_case("shop.buy_nagging"))
            shop.until(listen, "the service's message is thrown away")
        shop.start(PARCELS)
        shop.until_status(run_id, "COMPLETED")
        assert attempts(run_id, 2)[-1] == (False, "DONE")
        assert asked_here() > 1
        assert shop.effects(run_id) == (1, 1, 0, 1)
