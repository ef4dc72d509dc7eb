"""Whom and what a run is about: read once by all the steps of one transaction."""

from uuid import UUID

from apps.customers import public as customers
from apps.orders import queries
from apps.saga import public as saga

ORDER, CUSTOMER = "order", "customer"  # in Run.known


def order_of(run: saga.Run) -> queries.OrderView:
    """The order that a run is about. Its status may be older than the last step: steps move it on, and nothing else."""
    if (known := run.known.get(ORDER)) is not None:
        return known  # type: ignore[no-any-return]
    order = queries.order(run.subject_id)
    if order is None:
        raise LookupError(f"run {run.id} has no order {run.subject_id}")
    run.known[ORDER] = order
    return order


def customer_of(run: saga.Run, customer_id: UUID) -> customers.CustomerView:
    """The customer who buys. Raises UnknownCustomer."""
    if (known := run.known.get(CUSTOMER)) is not None:
        return known  # type: ignore[no-any-return]
    customer = run.known[CUSTOMER] = customers.customer(customer_id)
    return customer
