"""Is every use case governed: does it say who answers for it, what is promised, and what it can be found by?

Unlike ``Definition.problems`` nothing here stops a run: ``manage.py check`` refuses it before it is deployed.
"""

import re
from collections.abc import Iterable, Iterator

from apps.saga.attributes import ATTRIBUTES_MAX
from apps.saga.definition import AskStep, CallStep, Definition, Step

USE_CASE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
NAME_CHARACTERS_MAX = 100  # of the columns


def problems_of(definition: Definition) -> Iterator[str]:
    """What one definition lacks."""
    if not USE_CASE.fullmatch(definition.use_case) or len(definition.use_case) > NAME_CHARACTERS_MAX:
        yield "its name is not words with dots between them, such as orders.purchase.card"
    for what, given in (("owner", definition.owner), ("description", definition.description), ("SLA", definition.sla)):
        if not given:
            yield f"it has no {what}"
    if definition.sla is not None:
        yield from definition.sla.problems()
    yield from _attributes(definition)
    for step in definition.all_steps:
        yield from (f"step {step.name}: {problem}" for problem in _step(step))


def _attributes(definition: Definition) -> Iterator[str]:
    names = [attribute.name for attribute in definition.attributes]
    if len(names) > ATTRIBUTES_MAX:
        yield f"it has more than {ATTRIBUTES_MAX} search attributes"
    yield from (f"attribute {name} appears twice" for name in sorted({n for n in names if names.count(n) > 1}))
    steps = [step.name for step in definition.all_steps]
    for attribute in definition.attributes:
        yield from attribute.problems(steps)


def _step(step: Step) -> Iterator[str]:
    if len(step.name) > NAME_CHARACTERS_MAX:
        yield f"its name is longer than {NAME_CHARACTERS_MAX} characters"
    if isinstance(step, AskStep | CallStep) and not step.partner:
        yield "it waits for somebody, and does not say for whom (partner)"
    if step.breaker is not None:
        yield from step.breaker.problems()
        if not isinstance(step, AskStep | CallStep):
            yield f"a {step.shape} step has no partner who could be away, and needs no breaker"


def problems_between(definitions: Iterable[Definition]) -> Iterator[str]:
    """What does not fit together: an attribute has one type everywhere, or nobody could search all use cases for it."""
    types: dict[str, tuple[type, str]] = {}
    for definition in definitions:
        for attribute in definition.attributes:
            kind, where = types.setdefault(attribute.name, (attribute.type, definition.use_case))
            if kind is not attribute.type:
                yield (
                    f"attribute {attribute.name} is a {kind.__name__} in {where} "
                    f"and a {attribute.type.__name__} in {definition.use_case} v{definition.version}"
                )
