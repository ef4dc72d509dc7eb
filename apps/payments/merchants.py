"""A merchant's own payment: once only per key, and stored whether it is approved or rejected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from apps.common.clock import business_date, uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.idempotency import public as idempotency
from apps.payments import operations, rules, vault
from apps.payments.queries import PaymentView

# What our own rules say about a card or an amount: stored as a rejected payment. Anything else is the caller's error.
REFUSALS: tuple[type[DomainError], ...] = (
    rules.AmountOutOfRange,
    rules.CardExpired,
    vault.InvalidCardNumber,
    vault.InvalidCvv,
    vault.UnsupportedBrand,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayment:
    """What a merchant asks for: a card of theirs in the vault, or one typed now."""

    account_id: str
    amount: Decimal
    reference: str
    card_token: str | None = field(repr=False)
    card: vault.CardInput | None
    captures_itself: bool = True  # else it is only authorised, and captured or voided later
    idempotency_key: str | None
    route: str
    body: Any = field(repr=False)  # as it came, for the fingerprint of the Idempotency-Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What HTTP says."""

    status: int
    body: Any
    headers: dict[str, str]


@transaction
def save_card(*, owner_id: str, card: vault.CardInput, now: datetime) -> vault.CardView:
    """Put a merchant's customer's card into the vault. See vault.save_card."""
    return vault.save_card(owner_id=owner_id, card=card, now=now)


@transaction
def pay(command: NewPayment, *, now: datetime) -> Answer:
    """Accept a payment: 202 while the processor decides, 201 when our own rules rejected it (it is stored then, too).

    With an Idempotency-Key safe to repeat. Raises InvalidAmount, UnknownCard, TooManyRefusals, and what idempotency.begin
    raises.
    """
    return once(
        lambda: _answer(_pay(command, now=now)),
        account_id=command.account_id,
        key=command.idempotency_key,
        route=command.route,
        body=_without_cvv(command.body),
        now=now,
    )


@transaction_required
def once(work: Callable[[], Answer], *, account_id: str, key: str | None, route: str, body: Any, now: datetime) -> Answer:
    """Work, and its answer; under an Idempotency-Key that was used before, the answer that it got then.

    Raises what ``work`` and idempotency.begin raise.
    """
    if key is None:
        return work()
    begun = idempotency.begin(account_id=account_id, key=key, route=route, body=body, now=now)
    if isinstance(begun, idempotency.Replay):
        return Answer(status=begun.status, body=begun.body, headers=begun.headers)
    answer = work()
    idempotency.settle(begun, status=answer.status, body=answer.body, headers=answer.headers, now=now)
    return answer


def _without_cvv(body: Any) -> Any:
    """The body that a key is remembered by: a digest of three digits is the digits for whoever has the secret.

    Their count stays: a code that was refused as too short and is sent again in full is another request.
    """
    card = body.get("card") if isinstance(body, Mapping) else None
    if not isinstance(card, Mapping):
        return body
    return {**body, "card": {**card, "cvv": len(str(card.get("cvv", "")))}}


def _answer(view: PaymentView) -> Answer:
    decided = view.status == "rejected"
    return Answer(status=201 if decided else 202, body=view.to_json(), headers={"Location": f"/payments/{view.id}"})


def _pay(command: NewPayment, *, now: datetime) -> PaymentView:
    amount = rules.exact_amount(command.amount)
    step_key = f"merchant:{uuid7()}"
    try:
        rules.check_range(amount)
        card_token = _card_token(command, now=now)
    except REFUSALS as refusal:
        return operations.store_rejected(
            account_id=command.account_id,
            order_ref=command.reference,
            amount=amount,
            card=_remains(command),
            step_key=step_key,
            refusal=refusal,
            now=now,
        )
    return operations.authorise(
        step_key=step_key,
        reply_to="",
        account_id=command.account_id,
        order_ref=command.reference,
        card_token=card_token,
        amount=amount,
        now=now,
        card_owner_id=command.account_id,
        captures_itself=command.captures_itself,
    )


def _card_token(command: NewPayment, *, now: datetime) -> str:
    if command.card is not None:
        return vault.save_card(owner_id=command.account_id, card=command.card, now=now).token
    card = vault.card(command.card_token or "", owner_id=command.account_id)
    rules.check_expiry(exp_month=card.exp_month, exp_year=card.exp_year, today=business_date(now))
    return card.token


def _remains(command: NewPayment) -> dict[str, str]:
    """What a rejected payment keeps of its card: the digits that may be kept, or nothing."""
    if command.card is not None:
        bin6, last4 = vault.truncated(command.card.number)
        return {"card_bin": bin6, "card_last4": last4}
    card = vault.card(command.card_token or "", owner_id=command.account_id)
    return {"card_bin": card.bin6, "card_last4": card.last4, "card_brand": card.brand}
