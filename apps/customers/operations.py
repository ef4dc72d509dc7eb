"""Verbs on customers."""

from datetime import datetime
from uuid import UUID

from stdnum.br import cpf as cpf_numbers

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.customers.models import Customer
from apps.customers.queries import CustomerView, UnknownCustomer, view_of


class InvalidCpf(DomainError):
    """The CPF is not valid."""

    code, status = "R802", 422


class MethodUnavailable(DomainError):
    """The customer cannot pay this way: there is no saved card, or no ledger account."""

    code = "R803"


class CustomerExists(DomainError):
    """There is a customer with this id already."""

    code = "R804"


class CustomerOfAnother(DomainError):
    """The customer belongs to another account already."""

    code = "R805"


@transaction_required
def create_customer(
    *,
    account_id: str,
    name: str,
    cpf: str,
    email: str,
    default_method: str,
    now: datetime,
    customer_id: UUID | None = None,
    card_token: str | None = None,
    ledger_branch: str | None = None,
    ledger_account: str | None = None,
) -> CustomerView:
    """Register an account's customer, or nobody's (""). The CPF may carry dots and a hyphen.

    Raises InvalidCpf, MethodUnavailable or CustomerExists.
    """
    digits = _cpf(cpf)
    _check_method(default_method, card_token=card_token, ledger_account=ledger_account)
    row, created = Customer.objects.get_or_create(
        pk=customer_id or uuid7(),
        defaults={
            "account_id": account_id,
            "name": name,
            "cpf": digits,
            "email": email,
            "default_method": default_method,
            "card_token": card_token,
            "ledger_branch": ledger_branch,
            "ledger_account": ledger_account,
            "created_at": now,
            "updated_at": now,
        },
    )
    if not created:
        raise CustomerExists
    return view_of(row)


@transaction_required
def give_customer(customer_id: UUID, *, to: str, now: datetime, taken_from: str = "") -> None:
    """From now on it is this account's customer: nobody's until now, or that of ``taken_from``.

    Safe to repeat. Raises UnknownCustomer or CustomerOfAnother.
    """
    row = Customer.objects.select_for_update().filter(pk=customer_id).first()
    if row is None:
        raise UnknownCustomer
    if row.account_id not in (taken_from, to):
        raise CustomerOfAnother(field="customerId")
    row.account_id, row.updated_at = to, now
    row.save(update_fields=["account_id", "updated_at"])


@transaction_required
def set_default_method(*, customer_id: UUID, method: str, now: datetime, card_token: str | None = None) -> CustomerView:
    """Choose how orders without a ``payment`` are paid: "card" (perhaps with a new saved card) or "balance".

    Safe to repeat. Raises UnknownCustomer or MethodUnavailable.
    """
    row = Customer.objects.select_for_update().filter(pk=customer_id).first()
    if row is None:
        raise UnknownCustomer
    row.default_method, row.card_token, row.updated_at = method, card_token or row.card_token, now
    _check_method(method, card_token=row.card_token, ledger_account=row.ledger_account)
    row.save(update_fields=["default_method", "card_token", "updated_at"])
    return view_of(row)


def _cpf(text: str) -> str:
    """The eleven digits. Raises InvalidCpf; 111.111.111-11 and its like add up, and are nobody's."""
    if not text.isascii() or not cpf_numbers.is_valid(text) or len(set(cpf_numbers.compact(text))) == 1:
        raise InvalidCpf(field="cpf")
    return str(cpf_numbers.compact(text))


def _check_method(method: str, *, card_token: str | None, ledger_account: str | None) -> None:
    means: dict[str, str | None] = {Customer.Method.CARD: card_token, Customer.Method.BALANCE: ledger_account}
    if not means.get(method):
        raise MethodUnavailable(field="default_method")
