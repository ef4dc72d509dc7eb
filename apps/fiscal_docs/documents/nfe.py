"""NF-e, model 55: the document for a buyer with an address. Loads nfelib."""

from apps.fiscal_docs.documents import groups
from apps.fiscal_docs.documents.draft import Draft
from apps.fiscal_docs.documents.serial import one_line


def build(draft: Draft) -> str:
    """One line of unsigned XML: portrait DANFE, sold over the internet."""
    return one_line(groups.assemble(draft, print_format="1", presence="2"))
