"""A numbered sale becomes signed bytes that satisfy the official schema."""

from functools import partial
from uuid import UUID

from apps.common.errors import DomainError
from apps.fiscal_docs import certificates, schemas
from apps.fiscal_docs.documents import draft
from apps.fiscal_docs.signature import sign, sign_text


class DocumentInvalid(DomainError):
    """The document built from this sale does not satisfy the official schema."""

    code = "R405"


def signed(planned: draft.Draft, *, certificate_id: UUID) -> bytes:
    """The exact bytes to keep and to send. Raises DocumentInvalid."""
    identity = certificates.identity(certificate_id)
    unsigned = draft.build(planned, partial(sign_text, key=identity.key)).encode()
    found = sign(unsigned, reference=f"NFe{planned.key}", key=identity.key, certificate=identity.certificate)
    wrong = schemas.errors(found, schemas.NFE)
    if wrong:
        raise DocumentInvalid(wrong[0])
    return found
