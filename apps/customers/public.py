"""The door of customers."""

from apps.customers.operations import (
    CustomerExists,
    CustomerOfAnother,
    InvalidCpf,
    MethodUnavailable,
    create_customer,
    give_customer,
    set_default_method,
)
from apps.customers.queries import CustomerView, UnknownCustomer, customer

__all__ = [
    "CustomerExists",
    "CustomerOfAnother",
    "CustomerView",
    "InvalidCpf",
    "MethodUnavailable",
    "UnknownCustomer",
    "create_customer",
    "customer",
    "give_customer",
    "set_default_method",
]
