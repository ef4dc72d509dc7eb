"""The door of payments."""

from apps.payments.card_testing import LimitedAccount, TooManyRefusals, limited_accounts
from apps.payments.operations import (
    PaymentCaptured,
    PaymentNotAuthorised,
    PaymentNotCaptured,
    PaymentRefused,
    PaymentVoided,
    RefundTooLarge,
    StepKeyReused,
    authorise,
    capture,
    refund,
    void,
)
from apps.payments.queries import OperationView, PaymentView, UnknownPayment, payment, payments_of, taken, taken_ids
from apps.payments.rules import AmountOutOfRange, CardExpired, InvalidAmount
from apps.payments.vault import (
    CardInput,
    CardView,
    InvalidCardNumber,
    InvalidCvv,
    UnknownCard,
    UnsupportedBrand,
    card,
    save_card,
)

__all__ = [
    "AmountOutOfRange",
    "CardExpired",
    "CardInput",
    "CardView",
    "InvalidAmount",
    "InvalidCardNumber",
    "InvalidCvv",
    "LimitedAccount",
    "OperationView",
    "PaymentCaptured",
    "PaymentNotAuthorised",
    "PaymentNotCaptured",
    "PaymentRefused",
    "PaymentView",
    "PaymentVoided",
    "RefundTooLarge",
    "StepKeyReused",
    "TooManyRefusals",
    "UnknownCard",
    "UnknownPayment",
    "UnsupportedBrand",
    "authorise",
    "capture",
    "card",
    "limited_accounts",
    "payment",
    "payments_of",
    "refund",
    "save_card",
    "taken",
    "taken_ids",
    "void",
]
