"""The access key of a document: 44 characters that name issuer, month, series and number, and end in a check digit.

Pure. Since July 2026 a CNPJ may hold letters, so a key is text: never a number, never ``isdigit()``.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from apps.common.clock import BUSINESS_ZONE

KEY_PATTERN = re.compile(r"[0-9]{6}[0-9A-Z]{12}[0-9]{26}")
CNPJ_PATTERN = re.compile(r"[0-9A-Z]{12}[0-9]{2}")
NUMBER_MAX = 999_999_999  # nNF has nine digits
# tpEmis: as usual; handed out before the authority has it (NFC-e only)
NORMAL, OFFLINE = "1", "9"
SERIES_MAX = 889  # 890 and above are kept for notes issued by the authority itself and for individuals
ZERO = ord("0")
# Random parts that the authority refuses (897): eight times one digit, and eight that follow each other.
FORBIDDEN_CODES = frozenset(
    "".join(str((first + step * place) % 10) for place in range(8)) for first in range(10) for step in (0, 1)
)


def check_digit(base: str) -> str:
    """Modulus 11 with weights 2 to 9 from the right; a character counts its distance from "0", so letters work too."""
    total = sum((ord(character) - ZERO) * (2 + place % 8) for place, character in enumerate(reversed(base)))
    rest = total % 11
    return "0" if rest < 2 else str(11 - rest)


def cnpj_is_valid(cnpj: str) -> bool:
    """Fourteen characters, letters allowed in the first twelve, and both check digits right."""
    if not CNPJ_PATTERN.fullmatch(cnpj) or len(set(cnpj)) == 1:
        return False
    return check_digit(cnpj[:12]) == cnpj[12] and check_digit(cnpj[:13]) == cnpj[13]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """The parts of a key, in their order."""

    uf_code: str
    year_month: str
    cnpj: str
    kind: str
    series: int
    number: int
    emission_type: str
    code: str

    @property
    def base(self) -> str:
        """The first 43 characters. Raises ValueError for parts that make no key."""
        text = (
            f"{self.uf_code}{self.year_month}{self.cnpj.rjust(14, '0')}{self.kind}"
            f"{self.series:03d}{self.number:09d}{self.emission_type}{self.code}"
        )
        if not re.fullmatch(r"[0-9]{6}[0-9A-Z]{12}[0-9]{25}", text):
            raise ValueError(f"these parts make no access key: {text}")
        return text

    def __str__(self) -> str:
        base = self.base
        return base + check_digit(base)


def year_month_of(issued_at: datetime) -> str:
    """The month of emission as a key has it."""
    return f"{issued_at.astimezone(BUSINESS_ZONE):%y%m}"


def new_key(
    *, uf_code: str, issued_at: datetime, cnpj: str, kind: str, series: int, number: int, emission_type: str = "1"
) -> AccessKey:
    """Draw a key for a number that nobody has used. Its random part is drawn once: another draw is another document."""
    return AccessKey(
        uf_code=uf_code,
        year_month=year_month_of(issued_at),
        cnpj=cnpj,
        kind=kind,
        series=series,
        number=number,
        emission_type=emission_type,
        code=_random_code(number),
    )


def _random_code(number: int) -> str:
    """Eight digits that cannot be guessed from the number. Not the number itself, nor what looks made up (897)."""
    while True:
        code = f"{secrets.randbelow(10**8):08d}"
        if code not in FORBIDDEN_CODES and int(code) != number:
            return code


def parse(text: str) -> AccessKey:
    """Read a key. Raises ValueError when its shape or its check digit is wrong."""
    if not KEY_PATTERN.fullmatch(text) or check_digit(text[:43]) != text[43]:
        raise ValueError("this is no access key")
    return AccessKey(
        uf_code=text[0:2],
        year_month=text[2:6],
        cnpj=text[6:20],
        kind=text[20:22],
        series=int(text[22:25]),
        number=int(text[25:34]),
        emission_type=text[34],
        code=text[35:43],
    )


def grouped(text: str) -> str:
    """The key as people read it: groups of four."""
    return " ".join(text[place : place + 4] for place in range(0, len(text), 4))
