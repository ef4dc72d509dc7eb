"""What shall happen, drawn from a seed. Pure: the same seed makes the same orders, and more of them begin with the same."""

import uuid
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from random import Random
from uuid import UUID

from stdnum.br import cpf

ORDERS_DEFAULT = 200
CARD_YEARS = 5  # from now until its expiry: any year will do that is not too far ahead
ORDERS_MAX = 2_000  # `make run` is one process: some ten orders a second, so a few minutes
SEED_MAX = 99_999  # five digits of a ledger account
CUSTOMERS = 24  # that buy from their balance or by card, eight of each merchant
NAMESPACE = UUID("b7cf30d4-2d6d-5d5c-9a54-6a1b3d9e7a11")  # any fixed one
OTHERS = {"anaduarte": ("Ana", "Duarte"), "brunoteles": ("Bruno", "Teles")}  # colleagues' logins; without a password


class Fate(StrEnum):
    """What shall become of an order."""

    BY_CARD = "by card"
    BY_BALANCE = "from the balance"
    DECLINED = "card declined"
    CAPTURE_REFUSED = "capture refused"
    SOLD_OUT = "sold out"
    BALANCE_LOW = "balance too low"
    RETURNED = "returned"
    RETURN_WAITS = "return waits for a person"
    RETURN_APPROVED = "return approved"
    RETURN_DENIED = "return denied"
    REFUND_REFUSED = "refund refused"
    REFUSED = "document refused"
    REFUSED_ONCE = "document refused once"
    CORRECTED = "document refused, sent again"
    CLOSED = "closed by hand"
    AWAY = "authority away"
    AWAY_BY_CARD = "authority away, by card"
    ANSWER_LOST = "answer lost"
    ANSWERED_TWICE = "answered twice"
    SILENT = "processor silent"
    OFFLINE = "handed out in contingency"


# The orders that a first run always has, and how often the others are drawn.
STORIES = (
    *(Fate.RETURN_WAITS, Fate.RETURN_WAITS, Fate.RETURN_APPROVED, Fate.RETURN_DENIED, Fate.REFUND_REFUSED),
    *(Fate.REFUSED, Fate.REFUSED, Fate.REFUSED_ONCE, Fate.REFUSED_ONCE, Fate.CORRECTED, Fate.CLOSED),
    *(Fate.AWAY, Fate.AWAY, Fate.AWAY_BY_CARD, Fate.ANSWER_LOST, Fate.ANSWERED_TWICE, Fate.SILENT),
    *(Fate.RETURNED, Fate.DECLINED, Fate.CAPTURE_REFUSED, Fate.SOLD_OUT, Fate.BALANCE_LOW),
    *(Fate.OFFLINE, Fate.OFFLINE, Fate.BY_CARD, Fate.BY_BALANCE),
)
ORDERS_MIN = len(STORIES)
_MIX = {
    Fate.BY_CARD: 48,
    Fate.BY_BALANCE: 30,
    Fate.DECLINED: 8,
    Fate.RETURNED: 5,
    Fate.CAPTURE_REFUSED: 3,
    Fate.SOLD_OUT: 3,
    Fate.BALANCE_LOW: 3,
}

# Sandbox cards (docs/sandbox-cards.md): nobody's. Which of them a fate pays with; any other one is a good card.
GOOD = ("4242424242424242", "5555555555554444", "378282246310005")
CARDS = {
    Fate.DECLINED: ("4000000000000002", "4000000000009995", "4000000000000069"),
    Fate.CAPTURE_REFUSED: ("4000000000000341",),
    Fate.REFUND_REFUSED: ("4000000000005126",),
    Fate.ANSWER_LOST: ("4000000000001000",),
    Fate.ANSWERED_TWICE: ("4000000000002008",),
    Fate.SILENT: ("4000000000003006",),
}
BY_BALANCE = frozenset(
    {
        *(Fate.BY_BALANCE, Fate.BALANCE_LOW, Fate.REFUSED, Fate.REFUSED_ONCE, Fate.CORRECTED, Fate.CLOSED),
        *(Fate.AWAY, Fate.OFFLINE),
    }
)
# Above ORDERS_RETURN_APPROVAL_ABOVE a person is asked.
LARGE = frozenset({Fate.RETURN_WAITS, Fate.RETURN_APPROVED, Fate.RETURN_DENIED})
GIVEN_BACK = frozenset({*LARGE, Fate.RETURNED, Fate.REFUND_REFUSED})
# Where each stops for a person, or is still under way for minutes: nobody waits for their end.
LINGER = frozenset({Fate.AWAY, Fate.AWAY_BY_CARD, Fate.ANSWER_LOST, Fate.SILENT})
STOP = frozenset({Fate.REFUSED, Fate.REFUSED_ONCE, Fate.CORRECTED, Fate.CLOSED})

MERCHANTS = {
    "acc_demo": "Demo merchant",
    "acc_demoteatro": "Teatro da Praça",
    "acc_demofestival": "Festival de Inverno",
}
TICKETS = (
    ("Plateia", Decimal("120.00")),
    ("Balcão", Decimal("60.00")),
    ("Camarote", Decimal("240.00")),
    ("Meia-entrada", Decimal("35.00")),
)
SOLD_OUT_TICKET = ("Estreia", Decimal("90.00"))
_FIRST = ("Ana", "Bruno", "Carla", "Diego", "Elisa", "Fábio", "Gabriela", "Heitor", "Iara", "João", "Lívia", "Otávio")
_LAST = ("Almeida", "Barbosa", "Cardoso", "Duarte", "Esteves", "Figueiredo", "Gonçalves", "Moura", "Nogueira", "Siqueira")


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Somebody who buys. ``cpf`` of the sandbox's buyers for those whose documents fail."""

    id: UUID
    merchant: str
    name: str
    cpf: str
    email: str
    account: str
    balance: Decimal
    card: str  # the number of the one that is saved
    usually_by_card: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Who buys whatever comes, and who buys only so that something goes wrong: by fate, one for each of its cards."""

    buyers: list[Customer]
    special: dict[Fate, list[Customer]]

    @property
    def all(self) -> list[Customer]:
        return [*self.buyers, *(one for ones in self.special.values() for one in ones)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order before it is placed. ``ticket`` is a place in TICKETS, -1: sold out."""

    key: str
    fate: Fate
    customer: Customer
    ticket: int
    quantity: int
    amount: Decimal


def named(seed: int, *words: object) -> UUID:
    """The same id for the same thing of the same seed."""
    return uuid.uuid5(NAMESPACE, "/".join(map(str, (seed, *words))))


def dice_of(seed: int, *words: object) -> Random:
    """The same dice for the same thing of the same seed."""
    return Random("/".join(map(str, (seed, *words))))  # noqa: S311 - nothing here is a secret


def cvv_of(card: str) -> str:
    """Any digits will do; American Express has four."""
    return "1234" if card.startswith("37") else "123"


def ticket_id(name: str) -> UUID:
    """Tickets are the same for every seed."""
    return uuid.uuid5(NAMESPACE, name)


def customers(seed: int, *, failing: dict[Fate, str]) -> People:
    """CUSTOMERS ordinary ones, one for each card that fails, and those whose documents fail: ``failing`` has their CPF."""
    special: dict[Fate, list[Customer]] = {}
    number = CUSTOMERS
    for fate in (*CARDS, *failing):
        for card in CARDS.get(fate, ("",)):
            special.setdefault(fate, []).append(_customer(seed, number, cpf_given=failing.get(fate, ""), card=card))
            number += 1
    return People(buyers=[_customer(seed, each) for each in range(CUSTOMERS)], special=special)


def _customer(seed: int, number: int, *, cpf_given: str = "", card: str = "") -> Customer:
    dice = dice_of(seed, "customer", number)
    first, last = dice.choice(_FIRST), dice.choice(_LAST)
    return Customer(
        id=named(seed, "customer", number),
        merchant=list(MERCHANTS)[number % len(MERCHANTS)],
        name=f"{first} {last}",
        cpf=cpf_given or _cpf(f"{dice.randrange(100_000_000, 999_999_999)}"),
        email=f"{_plain(first)}.{_plain(last)}{number}@example.com",
        account=f"9{seed:05d}{number:03d}",
        balance=Decimal(dice.randrange(600, 4_000)),
        card=card or dice.choice(GOOD),
        usually_by_card=bool(card) or dice.random() < 0.6,
    )


def _cpf(base: str) -> str:
    """Nine digits with their two check digits."""
    return next(number for digits in range(100) if cpf.is_valid(number := f"{base}{digits:02d}"))


def _plain(name: str) -> str:
    return name.lower().translate(str.maketrans("áãâéêíóõôúüç", "aaaeeiooouuc"))


def orders(seed: int, count: int, people: People) -> list[Order]:
    """The first ``count`` orders of a seed. The stories come first, so the number of orders changes none of them."""
    fates = [*STORIES[:count], *(_drawn(seed, number) for number in range(len(STORIES), count))]
    return [_order(seed, number, fate, people) for number, fate in enumerate(fates)]


def _drawn(seed: int, number: int) -> Fate:
    return dice_of(seed, "fate", number).choices(list(_MIX), weights=list(_MIX.values()))[0]


def _order(seed: int, number: int, fate: Fate, people: People) -> Order:
    dice = dice_of(seed, "order", number)
    ticket, quantity = _wanted(fate, dice)
    price = (SOLD_OUT_TICKET if ticket < 0 else TICKETS[ticket])[1]
    amount = Decimal("9999.00") if fate is Fate.BALANCE_LOW else price * quantity - dice.choice((0, 0, 0, 5))
    return Order(
        key=f"demo-{seed}-order-{number}",
        fate=fate,
        customer=dice.choice(people.special.get(fate, people.buyers)),
        ticket=ticket,
        quantity=quantity,
        amount=amount,
    )


def _wanted(fate: Fate, dice: Random) -> tuple[int, int]:
    """Which ticket, and how many of it."""
    if fate is Fate.SOLD_OUT:
        return -1, 1
    if fate in LARGE:
        return 2, 1 + dice.randrange(2)
    return dice.choice((0, 1, 1, 3)), 1 if fate in GIVEN_BACK else 1 + dice.randrange(2)
