"""How drf-spectacular writes the OpenAPI document: its head, and the names of its enums."""

from typing import Any

SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Lastro",
    "DESCRIPTION": "Orders, payments, ledger and fiscal documents kept consistent by sagas, in one database.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.1",
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "apps.common.openapi.tell_refusals"],
    "ENUM_NAME_OVERRIDES": {
        "PaymentState": "apps.payments.models.Payment.State",
        "ModeEnum": ["wait", "refuse"],  # of a use case's pause
        "SuspensionMode": "apps.ledger.care_models.Suspension.Mode",
        "OrderStatusEnum": [
            "PENDING",
            "RESERVED",
            "AWAITING_PAYMENT",
            "PAID",
            "COMPLETED",
            "REJECTED",
            "PAYMENT_NOT_COMPLETED",
            "CANCELLED",
            "STUCK",
            "RETURNED",
            "HANDLED",
        ],
        "PaymentStatus": ["approved", "rejected", "pending"],
        "RunStatus": ["RUNNING", "WAITING", "COMPENSATING", "COMPLETED", "COMPENSATED", "STUCK", "HANDLED"],
        "StateEnum": ["PENDING", "UNKNOWN", "AUTHORISED", "CAPTURED", "REFUNDED", "REJECTED", "VOIDED"],  # of a payment
        "RunGroup": ["open", "live", "in_error", "stuck", "waiting", "held", "slow", "late"],
        "IncidentStatus": ["OPEN", "HANDLED"],
        "ActionStatus": ["ASKED", "RUNNING", "DONE", "CANCELLED"],
        "ActionItemStatus": ["PENDING", "DONE", "REFUSED", "FAILED", "CANCELLED"],
        "RunAction": ["retry", "compensate", "skip", "handle"],
        "StepKindEnum": ["COMPENSABLE", "PIVOT", "RETRIABLE"],
        "WebhookDeliveryState": "apps.webhooks.models.Delivery.State",
        "WaitKind": ["answer", "call", "retry", "undo", "worker", "pause", "person"],
    },
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}
