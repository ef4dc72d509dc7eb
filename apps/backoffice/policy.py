"""What a browser may run, load and send from a page of the back office.

Note [How strict]
No script but our files runs, and no style but our files and the two blocks that the shell writes into its pages, which are
named by their hashes. No code is made of text: the shell's Alpine does so with the text of attributes, and
static/backoffice/attributes.js reads them in its place. Styles in attributes are left open: the shell needs them.
Nothing is loaded from, or sent to, another host, and no other host frames a page.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256

from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.template.loader import render_to_string

_STYLE = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)
# What unfold writes into a list that offers no actions; as in its admin/change_list.html, to the last space.
_LIST_STYLE = """
            #changelist table thead th:first-child {width: inherit}
        """


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _shell_styles() -> list[str]:
    """The style blocks of the shell: colours and radius, which come from the settings and from nothing else."""
    request = HttpRequest()
    request.method, request.path, request.user = "GET", "/admin/", AnonymousUser()
    request.META |= {"SCRIPT_NAME": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    shell = render_to_string("unfold/layouts/skeleton.html", admin.site.each_context(request), request=request)
    return _STYLE.findall(shell)


@cache
def policy() -> str:
    """The Content-Security-Policy of the back office. See Note [How strict]."""
    styles = " ".join(_hash(text) for text in (*_shell_styles(), _LIST_STYLE))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            f"style-src 'self' {styles}",
            "style-src-attr 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "manifest-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-src 'self'",  # the printed form of a document
            "frame-ancestors 'self'",
        )
    )
