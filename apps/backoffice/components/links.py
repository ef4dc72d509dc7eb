"""Doors: every number leads to its rows, every id to its page. A door that is not there is empty, never an error."""

from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode


def change_link(model: str, pk: Any) -> str:
    """The admin's page of a row (``model``: "orders_order"); empty when the admin has none."""
    try:
        return reverse(f"admin:{model}_change", args=[pk])
    except NoReverseMatch:
        return ""


def list_link(model: str, **filters: str) -> str:
    """The admin's list with a filter; empty when the admin has none."""
    try:
        address = reverse(f"admin:{model}_changelist")
    except NoReverseMatch:
        return ""
    return f"{address}?{urlencode(filters)}" if filters else address
