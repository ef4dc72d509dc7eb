"""Orders, and the tickets that they reserve."""

from django.db import models
from django.db.models import F, Q

from apps.common.clock import uuid7


class OrderStatus(models.TextChoices):
    """Where an order is."""

    PENDING = "PENDING", "Pending"
    RESERVED = "RESERVED", "Tickets reserved"
    AWAITING_PAYMENT = "AWAITING_PAYMENT", "Awaiting payment"
    PAID = "PAID", "Paid"
    COMPLETED = "COMPLETED", "Completed"
    REJECTED = "REJECTED", "Rejected: sold out"
    PAYMENT_NOT_COMPLETED = "PAYMENT_NOT_COMPLETED", "Payment not completed"
    CANCELLED = "CANCELLED", "Cancelled"
    STUCK = "STUCK", "Stuck: needs a person"
    RETURNED = "RETURNED", "Returned: the money is given back"
    HANDLED = "HANDLED", "Closed by hand: a person settled it"


# The outcome is known: the pivot is passed, or the order has ended.
DECIDED = (
    OrderStatus.PAID,
    OrderStatus.COMPLETED,
    OrderStatus.REJECTED,
    OrderStatus.PAYMENT_NOT_COMPLETED,
    OrderStatus.CANCELLED,
    OrderStatus.RETURNED,
    OrderStatus.HANDLED,
)


class PaymentMethod(models.TextChoices):
    """How an order is paid."""

    CARD = "card", "Card"
    BALANCE = "balance", "Ledger balance"


class Ticket(models.Model):
    """Tickets of one kind in stock."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    name = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=15, decimal_places=2)
    available = models.PositiveIntegerField(help_text="How many can still be reserved. It never goes below zero.")
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(name="orders_ticket_never_oversold", condition=Q(available__gte=0))]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What a customer wants to buy."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    account_id = models.CharField(max_length=64, blank=True, help_text="The merchant; empty when anonymous.")
    customer_id = models.UUIDField()
    amount = models.DecimalField(max_digits=15, decimal_places=2, help_text="What the customer pays.")
    currency = models.CharField(max_length=3, default="BRL")
    payment_method = models.CharField(max_length=7, choices=PaymentMethod)
    card_token = models.CharField(max_length=100, blank=True, default="")
    status = models.CharField(max_length=21, choices=OrderStatus, default=OrderStatus.PENDING)
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    run_id = models.UUIDField(null=True)
    created_at = models.DateTimeField()
    paid_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["-created_at"], name="orders_order_created"),
            # The lists of a merchant: all, those in a status, a customer's. (The last one finds a customer's of all, too.)
            # Because of the second one each change of the status writes all indexes: 70 µs an order.
            models.Index(fields=["account_id", "-created_at", "-id"], name="orders_order_list"),
            models.Index(fields=["status", "account_id", "-created_at", "-id"], name="orders_order_list_status"),
            models.Index(fields=["customer_id", "account_id", "-created_at", "-id"], name="orders_order_list_customer"),
        ]
        constraints = [models.CheckConstraint(name="orders_order_amount", condition=Q(amount__gt=0))]

    def __str__(self) -> str:
        return str(self.id)


class Item(models.Model):
    """One line of an order."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="items")
    ticket = models.ForeignKey(Ticket, on_delete=models.PROTECT)
    name = models.CharField(max_length=200)
    amount = models.DecimalField(max_digits=15, decimal_places=2, help_text="Of one ticket.")
    quantity = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.CheckConstraint(name="orders_item_quantity", condition=Q(quantity__gte=1)),
            models.CheckConstraint(name="orders_item_amount", condition=Q(amount__gte=0)),
            models.UniqueConstraint(fields=["order", "ticket"], name="orders_item_once"),
        ]


class ReservationStatus(models.TextChoices):
    """Where a reservation is. A released one stays, so that a reservation that comes late is refused."""

    RESERVED = "RESERVED", "Reserved"
    RELEASED = "RELEASED", "Released"
    SOLD = "SOLD", "Sold"
    RETURNED = "RETURNED", "Returned"


class Reservation(models.Model):
    """The tickets that one step of one run took out of stock."""

    step_key = models.CharField(primary_key=True, max_length=100)
    order_id = models.UUIDField(db_index=True)
    status = models.CharField(max_length=8, choices=ReservationStatus)
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField(default=None, null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="orders_reservation_times",
                condition=Q(changed_at__isnull=True) | Q(changed_at__gte=F("created_at")),
            )
        ]


class ReturnStatus(models.TextChoices):
    """Where a return is."""

    REQUESTED = "REQUESTED", "Requested"
    ACCEPTED = "ACCEPTED", "Accepted: the money goes back"
    COMPLETED = "COMPLETED", "Completed"
    REFUSED = "REFUSED", "Refused"
    STUCK = "STUCK", "Stuck: needs a person"
    HANDLED = "HANDLED", "Closed by hand: a person settled it"


class OrderReturn(models.Model):
    """A customer wants to give an order back, all of it."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="returns")
    account_id = models.CharField(max_length=64, blank=True, help_text="Who asked for it; empty when anonymous.")
    reason = models.CharField(max_length=200)
    amount = models.DecimalField(max_digits=15, decimal_places=2, help_text="What the customer gets back.")
    status = models.CharField(max_length=9, choices=ReturnStatus, default=ReturnStatus.REQUESTED)
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    document = models.CharField(
        max_length=200, blank=True, default="", help_text="What became of the order's fiscal document; empty: nothing yet."
    )
    run_id = models.UUIDField()
    created_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "return"
        permissions = [("approve_return", "Can approve the return of an order")]
        constraints = [
            models.CheckConstraint(name="orders_return_amount", condition=Q(amount__gt=0)),
            models.UniqueConstraint(
                fields=["order"],
                name="orders_return_once",
                condition=~Q(status="REFUSED"),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)
