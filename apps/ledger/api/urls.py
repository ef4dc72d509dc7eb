"""The ledger's addresses."""

from django.urls import path

from apps.ledger.api import care, views

urlpatterns = [
    path("ledger/accounts/<str:branch>/<str:account>/balance", views.BalanceView.as_view(), name="ledger-balance"),
    path("ledger/accounts/<str:branch>/<str:account>/statement", views.StatementView.as_view(), name="ledger-statement"),
    path("ledger/transactions", views.PostingView.as_view(), name="ledger-post"),
    path("ledger/transactions/batch", views.BatchView.as_view(), name="ledger-post-batch"),
    path("ledger/transactions/<uuid:key>", views.TransactionView.as_view(), name="ledger-transaction"),
    path("ledger/suspensions", care.SuspensionsView.as_view(), name="ledger-suspensions"),
    path("ledger/suspensions/<uuid:suspension_id>", care.SuspensionView.as_view(), name="ledger-suspension"),
]
