"""A choreographed run is what its facts say: its rows are written from them, and what a service did not do is done.

Note [Facts and rows]
Whoever works on such a run holds its row lock, like the engine. Rows are written from facts each time, wholly, so a fact
may come at any time and twice. What a person changed meanwhile (a step skipped, a run turned round) differs from what
the old facts said: it becomes a fact of its own before anything else.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connection

from apps.common.errors import DomainError
from apps.common.transactions import kept_savepoint
from apps.messaging.public import publish_raw
from apps.observability import ids
from apps.saga import children, circuits, turning
from apps.saga.choreography import sending, store
from apps.saga.choreography.errors import GlobalIdTaken
from apps.saga.choreography.facts import BRANCH, BY_HAND, Fact, What
from apps.saga.choreography.fold import State, View
from apps.saga.choreography.plan import Case, Do, NoReport, Plan, past_the_pivot, plan
from apps.saga.choreography.rows import all_attempts, write_steps
from apps.saga.choreography.sending import Letterhead, Sent
from apps.saga.edits import InvalidInput, merged
from apps.saga.hooks import HOOK_ATTEMPTS_MAX, HookFailed
from apps.saga.models import RunStatus, StepStatus
from apps.saga.pipes import PipeHooks, PipeStep
from apps.saga.session import Session
from apps.saga.terms import ErrorClass

logger = logging.getLogger(__name__)

ROUNDS_MAX = 4  # of deciding and doing: what is done leads to waiting


# --- Ways in ----------------------------------------------------------------------------------------------------------
def begin(session: Session) -> None:
    """Write a new run, and send its first message in the caller's commit, unless something is in its way.

    Raises GlobalIdTaken.
    """
    run = session.run
    if not store.claim(str(run.global_id), "", run.id):
        raise GlobalIdTaken(f"There is a run of {run.global_id} already.")
    if run.held_by is None and not run.awaits_key:
        Work(session, []).settle()
    else:
        session.flush()


def act(session: Session) -> None:
    """The run is due: do what a service did not. The caller flushes."""
    run = session.run
    _name(session)
    work = Work(session, store.facts_of(run.id))
    if why := _why_turn(work):
        work.turn_round(code=why.code, reason=why.detail)
    else:
        work.settle()


def _name(session: Session) -> None:
    """A run that another one began as its branch has the global id of that, and needs a name of its own in it."""
    run = session.run
    if not store.is_named(run.id):
        names = ["", *([run.branch] if BRANCH.fullmatch(run.branch) else []), str(run.id)]
        next(name for name in names if store.claim(str(run.global_id), name, run.id))


def _why_turn(work: "Work") -> DomainError | None:
    """Its deadline has passed, or its parent calls it back, and it can be undone."""
    run, now = work.session.run, work.session.now
    if run.status == RunStatus.COMPENSATING or work.view.is_backward or past_the_pivot(work.view, work.steps) is not None:
        return None
    if run.parent_id is not None and children.is_called_back(run):
        return children.CalledBack()
    if run.deadline_at is not None and run.deadline_at <= now:
        return turning.DeadlinePassed(f"It was not done by {run.deadline_at:%Y-%m-%d %H:%M:%S} UTC.")
    return None


class Work:
    """A run at hand, with its facts. Its row is locked, or it is new."""

    def __init__(self, session: Session, facts: list[Fact]) -> None:
        self.session, self.facts = session, facts
        self._wants_undo = session.run.status == RunStatus.COMPENSATING
        self._asked_for: dict[str, str] | None = None
        self._notice_people()

    @property
    def steps(self) -> list[PipeStep]:
        """The steps of the use case."""
        return [step for step in self.session.definition.steps if isinstance(step, PipeStep)]

    @property
    def view(self) -> View:
        """The saga as the facts have it."""
        return View(self.facts, steps=len(self.session.steps))

    def add(self, fact: Fact, *, key: str = "", envelope: str = "") -> bool:
        """One fact more. False when it is known."""
        is_endless = len(self.facts) >= store.FACTS_MAX and fact.what in (What.RETRYING, What.ASKED, What.SEEK)
        if is_endless or not store.add(self.session.run.id, fact, key=key, envelope=envelope):
            return False
        self.facts.append(fact)
        return True

    def _notice_people(self) -> None:
        """What a person did to the rows; see Note [Facts and rows]."""
        view = self.view
        for row in self.session.steps:
            state = view.states[row.position]
            if row.status == StepStatus.DONE and state in (State.ASKED, State.RETRYING, State.DEAD):
                self._by_hand(row.position, undo=False)
            elif row.status == StepStatus.UNDONE and state in (State.UNDO_ASKED, State.UNDO_RETRYING, State.UNDO_DEAD):
                self._by_hand(row.position, undo=True)

    def pass_over(self, output: dict[str, Any], *, undo: bool) -> None:
        """A person says that the current step is done, or undone. The session is flushed when this returns."""
        at = self.session.position
        self._by_hand(at, undo=undo)
        if not undo:
            self.session.touch(at).output = output
        self.settle()

    def _by_hand(self, position: int, *, undo: bool) -> None:
        what = What.UNDONE if undo else What.DONE
        self.add(
            Fact(
                position=position, undo=undo, message_id=store.new_id(), what=what, at=self.session.now, code=BY_HAND,
                reason="A person said so.",
            )
        )  # fmt: skip

    def again(self, patch: Mapping[str, Any]) -> None:
        """Send the current step's message again now, its body changed. The session is flushed when this returns."""
        run, at = self.session.run, self.session.position
        found = store.kept(run.id, position=at)
        body = found.body if found is not None else run.data if at == 0 else self.session.steps[at - 1].output
        if not isinstance(body, dict):
            raise InvalidInput("The step's message has no object as its body.", field="input")
        changed = merged(body, patch)
        with self.session.at_work():
            if found is None:
                sent = sending.ask(self._head(), at, changed)
            else:
                sent = sending.again(
                    f"{self.steps[at].service}.in", found.key, _without_error(found.meta), merged(body, patch)
                )
            self._publish(sent, at, undo=False)
        self.settle()

    def turn_round(self, *, code: str, reason: str) -> None:
        """Undo it, because somebody asked for that. The session is flushed when this returns."""
        self._wants_undo, self._asked_for = True, {"code": code, "reason": reason, "kind": "outside"}
        self.settle()

    # --- Settling -----------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Write the rows, and do what is to be done. The session is flushed when this returns."""
        session = self.session
        with session.at_work():
            before = session.run.status
            if before == RunStatus.HANDLED:
                self._write_what_was_heard()
                return
            for _ in range(ROUNDS_MAX):
                view = self.view
                decision = plan(self._case(view))
                write_steps(session, view, decision)
                self._blame(view, decision)
                if not self._apply(view, decision, before=before):
                    break
            view = self.view
        self._write_attempts(view)

    def _write_what_was_heard(self) -> None:
        """A person closed the run: what comes of it still is told, and nothing is done."""
        view = self.view
        write_steps(self.session, view, Plan(do=Do.COMPLETE, position=len(self.session.steps)))
        self._write_attempts(view)

    def _write_attempts(self, view: View) -> None:
        tries = [row for step in self.session.steps for row, _ in all_attempts(view, step.position)]
        store.write_attempts(self.session.run.id, tries)

    def _case(self, view: View) -> Case:
        rows = self.session.steps
        forgiven = [(row.attempts_forgiven, row.undo_attempts_forgiven) for row in rows]
        return Case(view=view, steps=self.steps, forgiven=forgiven, now=self.session.now, wants_undo=self._wants_undo)

    def _apply(self, view: View, decision: Plan, *, before: str) -> bool:
        """True when something was done, and the next thing is to be decided."""
        session, run = self.session, self.session.run
        run.token = None
        if decision.do is Do.COMPLETE:
            self._complete(before)
            return False
        if decision.do is Do.COMPENSATED:
            run.cursor = 0
            if before != RunStatus.COMPENSATED:
                session._undo_from(-1)  # nothing is left: the run is over, and its owner is told
            return False
        run.cursor, run.finished_at = decision.position, None
        if decision.do is Do.STICK:
            self._stick(decision, before)
            return False
        run.status = RunStatus.COMPENSATING if decision.undo else RunStatus.RUNNING
        if decision.do is Do.NOTHING:
            if not decision.undo and not decision.is_retry:
                run.status = RunStatus.WAITING
            run.due_at = decision.until
            return False
        if decision.do is not Do.SEEK and circuits.hold(session, undo=decision.undo):
            return False
        self._send(view, decision)
        return True

    def _complete(self, before: str) -> None:
        session = self.session
        session.run.cursor = len(session.steps)
        if before == RunStatus.COMPLETED:
            return
        session.run.failed_step = session.run.error_code = session.run.error_detail = ""
        if _completion_is_told(session):
            session.finish(RunStatus.COMPLETED)

    def _stick(self, decision: Plan, before: str) -> None:
        error = decision.error
        assert error is not None  # noqa: S101  # whoever is stuck has a reason
        if before == RunStatus.STUCK:
            self.session.blame(error)
            self.session.run.status, self.session.run.due_at = RunStatus.STUCK, None
        else:
            self.session.stick(error, ErrorClass.UNKNOWN if isinstance(error, NoReport) else ErrorClass.TECHNICAL)

    def _blame(self, view: View, decision: Plan) -> None:
        """The run's trouble, as far as there is one: what turned it round, or what the step is tried again for."""
        run = self.session.run
        cause = view.cause if view.is_backward else None
        at = decision.position
        if cause is None and decision.do is Do.NOTHING and at < len(self.session.steps):
            way = view.way(at, undo=False)
            is_new = way.latest(What.ASKED, What.DONE)
            failed = way.latest(What.RETRYING, What.LETTER, What.DEAD)
            cause = failed if failed is not None and (is_new is None or failed.at >= is_new.at) else None
        if decision.error is not None:
            self.session.run.cursor = at
            self.session.blame(decision.error)
        elif cause is not None:
            run.failed_step = self.session.steps[cause.position].name
            run.error_code, run.error_detail = cause.code, cause.reason
        elif not view.is_backward and not self._wants_undo:
            run.failed_step = run.error_code = run.error_detail = ""

    # --- Sending ------------------------------------------------------------------------------------------------------
    def _send(self, view: View, decision: Plan) -> None:
        sent = self._message(view, decision)
        self._publish(sent, decision.position, undo=decision.undo)

    def _publish(self, sent: Sent, position: int, *, undo: bool) -> None:
        what = What.SEEK if sent.meta.get("seek-end") is True else What.ASKED
        error = sent.meta.get("error") or {}
        publish_raw(topic=sent.topic, key=sent.key, meta=sent.meta, body=sent.body)
        fact = Fact(
            position=position,
            undo=undo,
            message_id=UUID(sent.meta["message-id"]),
            what=what,
            at=self.session.now,
            code=str(error.get("code") or ""),
            reason=str(error.get("reason") or ""),
        )
        self.add(fact, key=sent.key, envelope=_text(sent))

    def _message(self, view: View, decision: Plan) -> Sent:
        run, position = self.session.run, decision.position
        if decision.do is Do.AGAIN:
            found = store.kept(run.id, position=position, undo=decision.undo)
            if found is not None:
                kind = "compensate" if decision.undo else "in"
                meta = found.meta if decision.undo else _without_error(found.meta)
                return sending.again(f"{self.steps[position].service}.{kind}", found.key, meta, found.body)
        if decision.undo:
            seek = decision.do is Do.SEEK
            return sending.undo(self._head(), position, self._given_back(position), error=self._why(view), seek=seek)
        return sending.ask(self._head(), position, run.data if position == 0 else self.session.steps[position - 1].output)

    def _head(self) -> Letterhead:
        run = self.session.run
        global_id, branch = store.name_of(run.id)
        known = store.kept(run.id)
        return Letterhead(
            global_id=global_id,
            branch=branch,
            use_case=run.use_case,
            version=run.version,
            services=[step.service for step in self.steps],
            key=known.key if known else "",
            trace=str(known.meta.get("trace") or "") if known else ids.current().get("trace", ""),
            carried=known.meta if known else None,
        )

    def _given_back(self, position: int) -> Any:
        """What a step gave back, which is what its undo is told: as it was handed on."""
        if position + 1 < len(self.steps):
            found = store.kept(self.session.run.id, position=position + 1)
            if found is not None:
                return found.body
        return self.session.steps[position].output or None

    def _why(self, view: View) -> dict[str, str]:
        run = self.session.run
        if self._asked_for is not None:
            return self._asked_for
        cause = view.cause
        code, reason = (cause.code, cause.reason) if cause is not None else (run.error_code, run.error_detail)
        return {"code": code or "GIVEN_UP", "reason": reason[:1_000], "kind": "outside"}


def _without_error(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The letter of one that was buried has its error in it."""
    return {name: value for name, value in meta.items() if name != "error"}


def _text(sent: Sent) -> str:
    return json.dumps({"meta": sent.meta, "body": sent.body}, ensure_ascii=False)


def _completion_is_told(session: Session) -> bool:
    """Call the owner's hook. False: it failed, and is called again later; see Note [A hook that fails] in hooks.py."""
    run, owner = session.run, session.definition.hooks
    if not isinstance(owner, PipeHooks):
        return True
    run.cursor = len(session.steps) - 1  # what a hook is handed is the last step's
    try:
        with kept_savepoint():
            owner.on_completed(session.view())
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        logger.warning("the hook of %s %s failed", run.use_case, run.business_key, exc_info=error)
        run.status, run.hook_failures = RunStatus.RUNNING, (run.hook_failures or 0) + 1
        if run.hook_failures < HOOK_ATTEMPTS_MAX:
            session.retry_hook(run.hook_failures)
        else:
            run.hook_failures = None
            session.stick(HookFailed(f"on_completed failed {HOOK_ATTEMPTS_MAX} times: {type(error).__name__}: {error}"))
        return False
    run.cursor, run.hook_failures = len(session.steps), None
    return True
