"""The fiscal document of an order: one call step when it is issued before the pivot, three steps when after it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.common.errors import DomainError
from apps.customers import public as customers
from apps.fiscal_docs import public as fiscal
from apps.orders import queries
from apps.orders.models import PaymentMethod
from apps.orders.sagas.subject import customer_of, order_of
from apps.saga import public as saga

# Two questions to the authority (was it authorised? please authorise) with their timeouts, and some air.
LEASE = timedelta(seconds=30)
AUTHORITY = "tax authority"
BEGINS_AGAIN = ("retry", "reset")  # interventions after which the step is tried again
INSTEAD_OF = "instead_of_number"  # in an edited input: the document's number, which another document has
SENDING = "sending"  # in Run.known: the attempt that is noted and to be made
# So many failures in a row are no accident: no single run can try as often by itself.
AUTHORITY_BREAKER = saga.Breaker(failures=50, within=timedelta(minutes=5))


class DocumentUnknown(DomainError):
    """Nobody says which fiscal document is to be sent."""

    code = "R309"


def sale_of(run: saga.Run) -> fiscal.SaleToDocument:
    """The order in the words of a fiscal document."""
    order = order_of(run)
    return _sale(order, customer_of(run, order.customer_id))


def preview_retry(*, order_id: UUID, run_id: UUID, now: datetime) -> fiscal.CorrectionPreview | None:
    """What a retry of this run would sign in place of its refused document; None when it has none. Looks only."""
    key = fiscal.unsettled_of_order(order_id)
    order = queries.order(order_id)
    if order is None or key is None or not key.startswith(f"{run_id}:"):
        return None
    return preview_document(order=order, step_key=key, now=now)


def preview_document(*, order: queries.OrderView, step_key: str, now: datetime) -> fiscal.CorrectionPreview | None:
    """The same, of any document of the order."""
    sale = _sale(order, customers.customer(order.customer_id))
    return fiscal.preview_correction(step_key=step_key, sale=sale, now=now)


def _sale(order: queries.OrderView, customer: customers.CustomerView) -> fiscal.SaleToDocument:
    by_card = order.payment_method == PaymentMethod.CARD
    return fiscal.SaleToDocument(
        order_id=order.id,
        items=tuple(
            fiscal.SaleItem(code=str(item.ticket_id), name=item.name, quantity=item.quantity, unit_amount=item.amount)
            for item in order.items
        ),
        total=order.amount,
        payment_code=fiscal.PAYMENT_CARD if by_card else fiscal.PAYMENT_ACCOUNT_BALANCE,
        buyer_document=customer.cpf,
        buyer_name=customer.name,
        issuer_cnpj=settings.FISCAL_ISSUER_CNPJ,
        account_id=order.account_id,
    )


def correction_of(run: saga.Run) -> fiscal.Correction:
    """What a refused document shall say: the order as it is known now. Whoever had the run tried again has said why."""
    retried = next((each for each in saga.interventions(run_id=run.id) if each.action in BEGINS_AGAIN), None)
    return fiscal.Correction(
        sale=sale_of(run),
        actor=retried.actor if retried else "",
        reason=retried.reason if retried else "",
        instead_of=run.data.get(INSTEAD_OF),
    )


def _begin_sending(run: saga.Run, step_key: str) -> None:
    """Note the first attempt in the commit that hands the call to its owner. A later one first asks what came of it."""
    if run.attempt == 1:
        again = partial(correction_of, run)
        run.known[SENDING] = fiscal.begin_sending(step_key=step_key, now=run.now, again=again)


def _record(run: saga.Run, step_key: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Write down what came of it. What was handed out in contingency is delivered later, by a run of its own."""
    from apps.orders.sagas import delivering  # it is made of what stands here

    known = fiscal.document_of(step_key=step_key) if outcome["status"] == fiscal.HANDED_OUT else None
    done = fiscal.record_issue(step_key=step_key, outcome=outcome, now=run.now)
    if known is not None and done["state"] != known.state:  # else it was recorded before
        delivering.begin(order_of(run), document_key=step_key, now=run.now)
    return done


def _transmit(run: saga.Run, step_key: str) -> dict[str, Any]:
    """Send it. What the authority has refused, and an operator has tried again, is signed anew under its own number."""
    sending = run.known.get(SENDING)
    return fiscal.transmit(step_key=step_key, now=run.now, sending=sending, again=partial(correction_of, run))


class IssueDocument(saga.CallStep):
    """Number, sign, store and transmit the document; undoing it cancels the document, or voids its number."""

    name = "issue_fiscal_doc"
    kind = saga.COMPENSABLE
    lease = LEASE
    partner, breaker = AUTHORITY, AUTHORITY_BREAKER

    def prepare(self, run: saga.Run) -> None:
        fiscal.prepare_issue(step_key=run.step_key, sale=sale_of(run), now=run.now)
        _begin_sending(run, run.step_key)

    def call(self, run: saga.Run) -> dict[str, Any]:
        return _transmit(run, run.step_key)

    def did_it_happen(self, run: saga.Run) -> dict[str, Any] | None:
        return fiscal.ask_authority(step_key=run.step_key, now=run.now)

    def record(self, run: saga.Run, outcome: dict[str, Any]) -> dict[str, Any]:
        return _record(run, run.step_key, outcome)

    def undo_prepare(self, run: saga.Run) -> bool:
        return fiscal.undo_prepare(step_key=run.step_key, now=run.now, order_id=run.subject_id) != "nothing"

    def undo_call(self, run: saga.Run) -> dict[str, Any]:
        return fiscal.undo_call(step_key=run.step_key, now=run.now)

    def undo_record(self, run: saga.Run, outcome: dict[str, Any]) -> None:
        fiscal.undo_record(step_key=run.step_key, outcome=outcome, now=run.now)


class CheckDocument(saga.LocalStep):
    """Make sure that a document can be issued, before the money is taken. It looks only."""

    name = "check_fiscal_doc"
    kind = saga.COMPENSABLE

    def handle(self, run: saga.Run) -> None:
        fiscal.check_can_issue(sale=sale_of(run), now=run.now)

    def compensate(self, run: saga.Run) -> None:
        """Nothing was done, so nothing is undone."""


class SignDocument(saga.LocalStep):
    """Number and sign the document, and store its exact bytes."""

    name = "sign_fiscal_doc"
    kind = saga.RETRIABLE

    def handle(self, run: saga.Run) -> dict[str, Any]:
        prepared = fiscal.prepare_issue(step_key=run.step_key, sale=sale_of(run), now=run.now)
        return {**prepared, "document_key": run.step_key}

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        key = output["document_key"]
        document = fiscal.document_of(step_key=key) if key else None
        # An empty one: there is none, and the sending is passed over, too.
        if key and (document is None or document.order_id != run.subject_id):
            raise DocumentUnknown("That is no document of this order.", field="output")


class TransmitDocument(saga.CallStep):
    """Send the signed document to the tax authority."""

    name = "transmit_fiscal_doc"
    kind = saga.RETRIABLE
    lease = LEASE
    partner, breaker = AUTHORITY, AUTHORITY_BREAKER
    attempts_max = 40  # an authority may be away for hours; with the delays below this is about three
    undo_attempts_max = 1  # after the pivot nothing is undone
    reads = {SignDocument.name: {"document_key": str}}  # nobody changes it

    def _key(self, run: saga.Run) -> str:
        """An operator may have passed over the step that signs, and given no output, or another one."""
        key = run.outputs.get(SignDocument.name, {}).get("document_key")
        if not key:
            raise DocumentUnknown(f"{SignDocument.name} has no document_key in its output: there is nothing to send.")
        return str(key)

    def prepare(self, run: saga.Run) -> None:
        _begin_sending(run, self._key(run))

    def call(self, run: saga.Run) -> dict[str, Any]:
        return _transmit(run, self._key(run))

    def did_it_happen(self, run: saga.Run) -> dict[str, Any] | None:
        return fiscal.ask_authority(step_key=self._key(run), now=run.now)

    def record(self, run: saga.Run, outcome: dict[str, Any]) -> dict[str, Any]:
        return _record(run, self._key(run), outcome)
