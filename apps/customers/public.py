"""The door of customers."""

from apps.customers.operations import CustomerExists, InvalidCpf, MethodUnavailable, create_customer, set_default_method
from apps.customers.queries import CustomerView, UnknownCustomer, customer

__all__ = [
    "CustomerExists",
    "CustomerView",
    "InvalidCpf",
    "MethodUnavailable",
    "UnknownCustomer",
    "create_customer",
    "customer",
    "set_default_method",
]
