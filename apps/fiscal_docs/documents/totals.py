"""Spread a discount or a charge over the items so that the cents add up. Pure."""

from collections.abc import Sequence
from decimal import Decimal

from apps.common.money import CENT


def spread(amount: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """Shares of ``amount`` in proportion to ``weights`` (amounts above zero), to the cent, with exactly its sum.

    Each share is rounded down, and the cents left over go to the largest remainders (the first of equals). A share never
    exceeds its weight while ``amount`` does not exceed their sum, so no item ends below zero.
    """
    cents = _cents(amount)
    parts = [_cents(weight) for weight in weights]
    whole = sum(parts)
    shares = [cents * part // whole for part in parts]
    remainders = [cents * part % whole for part in parts]
    left = cents - sum(shares)
    for index in sorted(range(len(parts)), key=lambda place: -remainders[place])[:left]:
        shares[index] += 1
    return [CENT * share for share in shares]


def _cents(amount: Decimal) -> int:
    return int(amount.scaleb(2).to_integral_exact())
