"""Doors: every number leads to its rows, every id to its page. One that is not there, or not for the viewer, is empty."""

from typing import Any

from django.utils.http import urlencode

from apps.common.doors import address


def change_link(model: str, pk: Any) -> str:
    """The admin's page of a row (``model``: "orders_order")."""
    return address(f"{model}_change", pk)


def list_link(model: str, **filters: str) -> str:
    """The admin's list with a filter."""
    return address(f"{model}_changelist", query=f"?{urlencode(filters)}" if filters else "")
