"""The door of fiscal documents: verbs of the saga's steps, questions, errors, and what sets an issuer up.

One document belongs to one ``step_key``. When two steps share a document (one signs, another transmits), both pass the
same key. Every verb may be repeated, and an undo may come before its do.

    check_can_issue     transaction   looks only
    prepare_issue       transaction   number, key, signature, exact bytes stored
    begin_sending       transaction   notes the attempt that transmit then makes; transmit does it itself otherwise
    transmit            network       sends; a rejection is kept, then raised
                                      ``again`` (also of begin_sending): what was refused, or is too old, is signed anew
    ask_authority       network       before a repeat: was it authorised?
    record_issue        transaction   protocol, legal file
    prepare_cancel · cancel · ask_cancelled · record_cancel                 the same four for a cancellation
    undo_prepare · undo_call · undo_did_it_happen · undo_record             the undo of a step, whatever it had done
"""

from apps.fiscal_docs.authority import AuthorityUnavailable, AuthorityUnreachable
from apps.fiscal_docs.certificates import CertificateUnreadable, CertificateUnusable, import_certificate
from apps.fiscal_docs.documents.consumer_urls import StateNotSupported
from apps.fiscal_docs.documents.sale import (
    PAYMENT_ACCOUNT_BALANCE,
    PAYMENT_CARD,
    BuyerAddress,
    SaleItem,
    SaleNotDocumentable,
    SaleToDocument,
)
from apps.fiscal_docs.operations.cancel import (
    CancelRefused,
    NotAuthorised,
    ReasonUnfit,
    ReturnDocumentNeeded,
    prepare_cancel,
    record_cancel,
    undo_prepare,
    undo_record,
)
from apps.fiscal_docs.operations.contingency import (
    AlreadyInContingency,
    ContingencyPeriod,
    NotInContingency,
    contingencies,
    contingency,
    enter_contingency,
    handed_out,
    leave_contingency,
)
from apps.fiscal_docs.operations.correct import Change, Correction, NotCorrectable
from apps.fiscal_docs.operations.correct import Preview as CorrectionPreview
from apps.fiscal_docs.operations.correct import preview as preview_correction
from apps.fiscal_docs.operations.issue import (
    HANDED_OUT,
    DocumentRejected,
    IssueUndone,
    NumberConflict,
    Sending,
    begin_sending,
    check_can_issue,
    prepare_issue,
    record_issue,
)
from apps.fiscal_docs.operations.issuers import (
    NoIssuer,
    NoNumberLeft,
    create_issuer_with_test_certificate,
    register_issuer,
)
from apps.fiscal_docs.operations.journal import NothingPrepared
from apps.fiscal_docs.operations.signing import DocumentInvalid
from apps.fiscal_docs.queries import (
    DocumentView,
    authorised_of_order,
    document_of,
    document_of_order,
    documents_of_order,
    unsettled_of_order,
)
from apps.fiscal_docs.sandbox.server import Running as RunningSandbox
from apps.fiscal_docs.sandbox.server import start as start_sandbox
from apps.fiscal_docs.transmission import (
    ask_authority,
    ask_cancelled,
    cancel,
    transmit,
    undo_call,
    undo_did_it_happen,
    warm_up,
)

__all__ = [
    "HANDED_OUT",
    "PAYMENT_ACCOUNT_BALANCE",
    "PAYMENT_CARD",
    "AlreadyInContingency",
    "AuthorityUnavailable",
    "AuthorityUnreachable",
    "BuyerAddress",
    "CancelRefused",
    "CertificateUnreadable",
    "CertificateUnusable",
    "Change",
    "ContingencyPeriod",
    "Correction",
    "CorrectionPreview",
    "DocumentInvalid",
    "DocumentRejected",
    "DocumentView",
    "IssueUndone",
    "NoIssuer",
    "NoNumberLeft",
    "NotAuthorised",
    "NotCorrectable",
    "NotInContingency",
    "NothingPrepared",
    "NumberConflict",
    "ReasonUnfit",
    "ReturnDocumentNeeded",
    "RunningSandbox",
    "SaleItem",
    "SaleNotDocumentable",
    "SaleToDocument",
    "Sending",
    "StateNotSupported",
    "ask_authority",
    "ask_cancelled",
    "authorised_of_order",
    "begin_sending",
    "cancel",
    "check_can_issue",
    "contingencies",
    "contingency",
    "create_issuer_with_test_certificate",
    "document_of",
    "document_of_order",
    "documents_of_order",
    "enter_contingency",
    "handed_out",
    "import_certificate",
    "leave_contingency",
    "prepare_cancel",
    "prepare_issue",
    "preview_correction",
    "record_cancel",
    "record_issue",
    "register_issuer",
    "start_sandbox",
    "transmit",
    "undo_call",
    "undo_did_it_happen",
    "undo_prepare",
    "undo_record",
    "unsettled_of_order",
    "warm_up",
]
