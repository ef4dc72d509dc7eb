"""Whoever tries one card after the other: after too many refusals in a short time the processor is not asked any more.

Note [Whose refusals count]
What the processor refused counts, within PAYMENTS_REFUSED_WINDOW_S; what our own rules refuse tells a thief nothing. It
counts for the card (by its fingerprint, whoever asks), for the customer whose saved card it is, and for the merchant's
account.

A shop with much traffic has many refusals, so of an account half of its last payments must have been refused: twice as many
as the limit are looked at. And a thief at the shop's own checkout must not close the shop, nor one who has a card's number
close it everywhere: of a card that has paid the same account before only the account's own refusals of this card count.
(What has no answer yet is no refusal: some dozens more may be asked for at once.)
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from apps.common import prepared
from apps.common.clock import first_uuid7
from apps.common.errors import DomainError
from apps.payments.models import CardToken, Payment

logger = logging.getLogger(__name__)

ACCOUNTS_MAX = 20  # that are named at once; more is an attack on all of them, and the first ones say so
PAYMENTS_MAX = 10_000  # the newest, that are looked at for these names
CARDS_MAX = 100  # of one customer, that are looked at
_PAID = (Payment.State.CAPTURED, Payment.State.REFUNDED)


class TooManyRefusals(DomainError):
    """Too many card payments were refused in a short time: wait, then try again."""

    code, status, retryable = "R217", 429, True

    def __init__(self, detail: str | None = None, *, field: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(detail, field=field)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedAccount:
    """An account of whose last card payments too many were refused. Only cards that have paid it before are tried."""

    account_id: str
    refused: int
    since: datetime  # the oldest refusal that counts


# By id, too, which begins with the time: then no plan reads what is older, for whichever account it was made.
_OF_ACCOUNT = """
SELECT count(*) FILTER (WHERE state = 'REJECTED') AS refused, min(created_at) FILTER (WHERE state = 'REJECTED') AS since
FROM (
    SELECT state, created_at FROM payments_payment
    WHERE account_id = %(account)s AND card_id IS NOT NULL AND created_at > %(since)s AND id >= %(first)s
        AND state IN ('REJECTED', 'AUTHORISED', 'CAPTURED', 'REFUNDED')
    ORDER BY id DESC LIMIT 2 * %(account_most)s
) AS last
"""
_REFUSED = f"""
SELECT 'card', count(*), min(created_at) FROM (
    SELECT created_at FROM payments_payment
    WHERE card_fingerprint = %(card)s AND created_at > %(since)s AND state = 'REJECTED'
    ORDER BY created_at DESC LIMIT %(card_most)s
) AS few
UNION ALL
SELECT 'customer', count(*), min(created_at) FROM (
    SELECT p.created_at FROM (SELECT id FROM payments_cardtoken WHERE owner_id = %(customer)s LIMIT %(cards)s) AS c
    CROSS JOIN LATERAL (  -- card by card, whatever is believed about how many payments a card has
        SELECT created_at FROM payments_payment
        WHERE card_id = c.id AND created_at > %(since)s AND state = 'REJECTED' LIMIT %(customer_most)s
    ) AS p
    ORDER BY p.created_at DESC LIMIT %(customer_most)s
) AS few
UNION ALL
SELECT 'account', refused, since FROM ({_OF_ACCOUNT}) AS account
"""  # noqa: S608  # our own text
_NOBODY = "-"  # owns no card


def check(card: CardToken, *, account_id: str, now: datetime) -> None:
    """May the processor be asked about this card once more? Raises TooManyRefusals. See Note [Whose refusals count]."""
    most = _most()
    if not any(most.values()):
        return
    since = now - _window()
    values = {
        "card": bytes(card.fingerprint),
        "customer": card.owner_id if card.owner_id != account_id else _NOBODY,
        "account": account_id,
        "since": since,
        "first": first_uuid7(since),
        "cards": CARDS_MAX,
        **{f"{of}_most": number for of, number in most.items()},
    }
    for of, refused, oldest in prepared.execute(_REFUSED, values).fetchall():
        if most[of] and refused >= most[of] and not _goes_on(of, card, account_id=account_id, since=since):
            logger.warning("too many refused card payments of one %s (account %s)", of, account_id or "none")
            wait_s = max(int((oldest + _window() - now).total_seconds()), 1)
            raise TooManyRefusals(
                f"Too many card payments of this {of} were refused: wait, then try again.", retry_after_s=wait_s
            )


def limited_accounts(*, now: datetime) -> Sequence[LimitedAccount]:
    """The accounts for which only known cards are tried now, at most ACCOUNTS_MAX."""
    since, most = now - _window(), _most()["account"]
    if not most:
        return []
    values = {"first": first_uuid7(since), "since": since, "most": most, "rows": PAYMENTS_MAX, "accounts": ACCOUNTS_MAX}
    found = []
    for (account_id,) in prepared.execute(_MANY_REFUSED, values).fetchall():
        counted = {"account": account_id, "since": since, "first": first_uuid7(since), "account_most": most}
        refused, oldest = prepared.execute(_OF_ACCOUNT, counted).fetchone()
        if refused >= most:
            found.append(LimitedAccount(account_id=account_id, refused=refused, since=oldest))
    return found


# By id, which begins with the time: there is no index on the time alone.
_MANY_REFUSED = """
SELECT account_id FROM (
    SELECT account_id, state, card_id, created_at FROM payments_payment
    WHERE id >= %(first)s ORDER BY id DESC LIMIT %(rows)s
) AS newest
WHERE created_at > %(since)s AND card_id IS NOT NULL AND state = 'REJECTED'
GROUP BY account_id HAVING count(*) >= %(most)s ORDER BY count(*) DESC LIMIT %(accounts)s
"""


def _window() -> timedelta:
    return timedelta(seconds=settings.PAYMENTS_REFUSED_WINDOW_S)


def _most() -> dict[str, int]:
    return {
        "card": settings.PAYMENTS_REFUSED_OF_CARD_MAX,
        "customer": settings.PAYMENTS_REFUSED_OF_CUSTOMER_MAX,
        "account": settings.PAYMENTS_REFUSED_OF_ACCOUNT_MAX,
    }


def _goes_on(of: str, card: CardToken, *, account_id: str, since: datetime) -> bool:
    """Is it a card that has paid this account before, and no refusal here that stands in its way?"""
    if of == "customer":
        return False
    here = Payment.objects.filter(Q(card=card) | Q(card_fingerprint=bytes(card.fingerprint)), account_id=account_id)
    if not here.filter(state__in=_PAID).exists():
        return False
    refused = here.filter(state=Payment.State.REJECTED, card__isnull=False, created_at__gt=since)
    return of == "account" or refused.count() < _most()["card"]
