"""What of the ledger's care needs a person, as the home page says it."""

from datetime import datetime

from apps.backoffice.components.formats import plural
from apps.backoffice.components.links import list_link as rows
from apps.backoffice.components.needs import Need
from apps.ledger import public as ledger


def ledger_needs(care: ledger.CareNow) -> list[Need]:
    """Differences, suspensions, and that no full check comes to its end."""
    found = []
    if care.differences:
        found.append(_ledger_need(care.differences, "difference", "Balances that do not add up", care.since))
    if care.suspensions:
        found.append(_ledger_need(care.suspensions, "suspension", "Nobody posts there now", care.suspended_since))
    if care.unchecked_since:
        found.append(_unchecked(care))
    return found


def chain_need(damage: str) -> Need:
    """The chain of hashes is damaged."""
    return Need(
        title="The chain of the ledger is damaged",
        where=f"{damage} · manage.py verify_chain says more",
        since=None,
        amount=None,
        who="",
        href=rows("ledger_block"),
        door="Open the chain",
    )


def _unchecked(care: ledger.CareNow) -> Need:
    running, where = care.running, "No full check has come to its end"
    if running:
        where += f"; one is at {running.percent} %" if running.percent is not None else "; one is running"
    return Need(
        title="The whole ledger was not proven for days",
        where=where,
        since=care.unchecked_since,
        amount=None,
        who="",
        href=rows("ledger_check"),
        door="Open checks",
    )


def _ledger_need(count: int, name: str, where: str, since: datetime | None) -> Need:
    state = {"state": "OPEN"} if name == "difference" else {}
    return Need(
        title=f"{plural(count, name, f'{name}s')} in the ledger",
        where=where,
        since=since,
        amount=None,
        who="",
        href=rows(f"ledger_{name}", **state),
        door=f"Open {name}s",
    )
