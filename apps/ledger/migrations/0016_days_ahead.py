"""A single debit of today looks at the days after it, too. See Note [One line] in apps/ledger/singles.py.

Clocks differ, and who asked before midnight may be served after it: then an account has a line of tomorrow already. What
that day brought is not there today, so the account's own sum does not tell whether it can be taken.
"""

from importlib import import_module

from django.db import migrations

POST_LINE = import_module("apps.ledger.migrations.0011_post_line").POST_LINE

_DECLARED = "    v_own numeric;\n"
_ACCOUNT = "RETURNING a.id, a.posteddebit, a.postedcredit, a.pendingdebit INTO v_account;"
_SHUT = "    IF ledger_is_shut(p_branch, p_account, p_currency, p_dateref, p_now) THEN\n"

# Read behind the account's lock, by a later statement. Who has no floor, and who adds, need not look.
_AHEAD = """    v_left := ledger_is_shut(p_branch, p_account, p_currency, p_dateref, p_now);
    IF NOT v_left AND v_debit > 0 AND v_account.minbalance IS NOT NULL AND p_dateref = p_today THEN
        v_left := EXISTS (SELECT FROM ledger_balance b WHERE b.branch = p_branch AND b.account = p_account
                          AND b.currency = p_currency AND b.dateref > p_dateref);
    END IF;
    IF v_left THEN
"""


def _with_days_ahead(text: str) -> str:
    for old, new in (
        (_DECLARED, f"{_DECLARED}    v_left boolean;\n"),
        (_ACCOUNT, _ACCOUNT.replace("a.pendingdebit", "a.pendingdebit, a.minbalance")),
        (_SHUT, _AHEAD),
    ):
        before, after = text.split(old)  # stands there once
        text = before + new + after
    return text


class Migration(migrations.Migration):
    dependencies = [("ledger", "0015_reversal_request")]
    operations = [migrations.RunSQL(_with_days_ahead(POST_LINE), POST_LINE)]
