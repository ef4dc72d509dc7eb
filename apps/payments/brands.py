"""Which brand a card number belongs to, by its first digits. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Brand:
    """A brand: the lengths of its numbers, the digits of its CVV, its ranges of first six digits (both ends included)."""

    name: str
    lengths: frozenset[int]
    cvv_digits: int
    ranges: tuple[tuple[int, int], ...]


_16 = frozenset({16})

# In order: Elo's ranges lie inside Visa's and Discover's, so it is asked first.
BRANDS = (
    Brand(
        "elo",
        _16,
        3,
        (
            (401178, 401179),
            (431274, 431274),
            (438935, 438935),
            (451416, 451416),
            (457393, 457393),
            (457631, 457632),
            (504175, 504175),
            (506699, 506778),
            (509000, 509999),
            (627780, 627780),
            (636297, 636297),
            (636368, 636368),
            (650031, 650033),
            (650035, 650051),
            (650405, 650439),
            (650485, 650538),
            (650541, 650598),
            (650700, 650718),
            (650720, 650727),
            (650901, 650978),
            (651652, 651679),
            (655000, 655019),
            (655021, 655058),
        ),
    ),
    Brand("hipercard", frozenset({13, 16, 19}), 3, ((384100, 384199), (606282, 606282))),
    Brand("visa", frozenset({13, 16, 19}), 3, ((400000, 499999),)),
    Brand("mastercard", _16, 3, ((510000, 559999), (222100, 272099))),
    Brand("amex", frozenset({15}), 4, ((340000, 349999), (370000, 379999))),
    Brand("diners", frozenset({14, 16}), 3, ((300000, 305999), (360000, 369999), (380000, 399999))),
    Brand("discover", frozenset({16, 19}), 3, ((601100, 601199), (644000, 649999), (650000, 659999))),
    Brand("jcb", frozenset({16, 19}), 3, ((352800, 358999),)),
)


def brand_of(bin6: str) -> Brand | None:
    """The brand of the first six digits of a number, or None."""
    number = int(bin6)
    for brand in BRANDS:
        if any(first <= number <= last for first, last in brand.ranges):
            return brand
    return None
