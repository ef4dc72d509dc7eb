"""The command ``pipes``. Exit 0: well; 1: it did not end well; 2: somebody must do what the sentence says."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lastro_pipes import control, logs, process, transports
from lastro_pipes.errors import BrokerDown, Misconfigured, PipesError
from lastro_pipes.settings import Settings, from_environment
from lastro_pipes.step import Loaded, load
from lastro_pipes.transports.base import Outgoing

MISCONFIGURED = 2


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _open(target: str) -> tuple[Loaded | None, Settings]:
    step = load(target) if target else None
    return step, from_environment(os.environ, service=step.service if step else "")


def _run(options: argparse.Namespace) -> int:
    step, settings = _open(options.target)
    logs.configure(settings.log_level, service=settings.service)
    assert step is not None  # noqa: S101  # the argument is required
    process.run(step, settings)
    return 0


def _check(options: argparse.Namespace) -> int:
    step, settings = _open(options.target)
    transport = transports.make(settings)
    try:
        process.check_topics(transport, settings)
    finally:
        transport.close()
    _say(f"{settings.broker}: reachable, and the service's topics are there.")
    if step is not None:
        store = process.store_of(step, settings)
        if not store.is_usable():
            raise Misconfigured(f"The store does not answer ({store.describe()}). Is PIPES_STORE right, and does it run?")
        _say(f"{step.name}: {step.kind}. Store: {store.describe()}.")
        store.close()
        if settings.store.startswith("sqlite"):
            _say("A file is for one node: with several, set PIPES_STORE to postgresql://user@host/database.")
    return 0


def _topics(options: argparse.Namespace) -> int:
    _, settings = _open(options.target)
    transport = transports.make(settings)
    wanted = process.topics_of(settings)
    try:
        missing = transport.missing(wanted)
        for topic in wanted:
            _say(f"{'missing' if topic.name in missing else 'ok':8} {settings.prefix}{topic.name}")
        if missing and options.apply:
            transport.create(wanted)
            _say(f"made {len(missing)}")
    finally:
        transport.close()
    return 1 if missing and not options.apply else 0


def _lag(options: argparse.Namespace) -> int:
    _, settings = _open(options.target)
    transport = transports.make(settings)
    try:
        found = transport.lag(group=settings.group, topics=settings.reads)
    finally:
        transport.close()
    partitions = {f"{topic}/{partition}": lag for (topic, partition), lag in sorted(found.items()) if lag}
    _say(json.dumps({"group": settings.group, "lag": sum(found.values()), "partitions": partitions}))
    return 0


def _send(record: Outgoing, settings: Settings) -> int:
    transport = transports.make(settings)
    try:
        reason = transport.send([record])[0]
    finally:
        transport.close()
    if reason:
        raise Misconfigured(reason)
    _say(json.dumps({"topic": record.topic, "key": record.key, "meta": json.loads(record.value)["meta"]}))
    return 0


def _start(options: argparse.Namespace) -> int:
    steps = options.steps.split(",")
    meta = _meta(**{"use-case": options.use_case, "branch": options.branch})
    body = _json(options.body)
    _, settings = _for_sender(steps)
    return _send(control.start(steps, body, global_id=options.global_id, key=options.key, meta=meta), settings)


def _compensate(options: argparse.Namespace) -> int:
    steps = options.steps.split(",")
    if options.at and options.at not in steps:
        raise Misconfigured(f"{options.at} is not one of {options.steps}.")
    record = control.compensate(
        steps,
        global_id=options.global_id,
        position=steps.index(options.at) if options.at else 0,
        code=options.code,
        reason=options.reason,
        key=options.key,
        meta=_meta(branch=options.branch),
    )
    _, settings = _for_sender(steps)
    return _send(record, settings)


def _meta(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _for_sender(steps: Sequence[str]) -> tuple[None, Settings]:
    return None, from_environment(os.environ, service=steps[0])


def _json(text: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise Misconfigured(f"--body is no JSON: {error}.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pipes", description="Saga steps over Kafka or RabbitMQ. Settings: README.md.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(function=function)
        return made

    command("run", _run, "work until SIGTERM").add_argument("target", metavar="module:Class")
    for name, function, text in (
        ("check", _check, "is the configuration right, the broker reachable, every topic there?"),
        ("topics", _topics, "show the service's topics; with --apply make what is missing"),
        ("lag", _lag, "how many messages wait for this group, as JSON"),
    ):
        made = command(name, function, text)
        made.add_argument("target", metavar="module:Class", nargs="?", default="")
        if name == "topics":
            made.add_argument("--apply", action="store_true")
    made = command("start", _start, "send the first message of a saga")
    made.add_argument("--steps", required=True, help="addresses with commas between them")
    made.add_argument("--body", default="{}", help="JSON; - reads standard input")
    made.add_argument("--use-case", default="")
    made.add_argument("--branch", default="", help="which of several routes of one saga")
    made.add_argument("--global-id", default="", help="by default a new one")
    made.add_argument("--key", default="", help="what keeps order; by default the global id")
    made = command("compensate", _compensate, "undo a saga, from the last step that it reached backwards")
    made.add_argument("--steps", required=True, help="addresses, forward, with commas between them")
    made.add_argument("--global-id", required=True)
    made.add_argument("--at", default="", help="where to begin to look; by default the first step")
    made.add_argument("--branch", default="")
    made.add_argument("--code", default="BY_HAND")
    made.add_argument("--reason", required=True)
    made.add_argument("--key", default="")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except (Misconfigured, BrokerDown) as error:
        sys.stderr.write(f"pipes: {error}\n")
        return MISCONFIGURED if isinstance(error, Misconfigured) else 1
    except PipesError as error:
        sys.stderr.write(f"pipes: {error}\n")
        return 1
