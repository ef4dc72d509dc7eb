"""The back office's page between choosing dead letters and replaying them: what would happen, a reason, then the click."""

from collections.abc import Sequence
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from unfold.admin import ModelAdmin

from apps.common.reasons import reason_field
from apps.messaging.corrections import Correction
from apps.messaging.dead_letters import Wanted, find
from apps.messaging.models import Message
from apps.messaging.replay import REASON_CHARACTERS_MAX, Because, Prepared, prepare, replay

PERMISSION = "messaging.add_deadletterreplay"
# One request sends them all, in seconds; the page names each. More is for the command, which tells how far it is.
LETTERS_MAX = 500
CONFIRMED = "confirmed"


class ReasonForm(forms.Form):
    """Why somebody sends dead letters again."""

    reason = reason_field(
        kept="Say why: the audit log keeps it.",
        max_length=REASON_CHARACTERS_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


def answer(request: HttpRequest, rows: QuerySet[Message], page: ModelAdmin) -> HttpResponse | None:
    """The page, or, when it was confirmed with a reason, the deed; None leads back to the list."""
    user = request.user
    if not isinstance(user, User) or not user.has_perm(PERMISSION):
        raise PermissionDenied
    chosen = list(rows.order_by().values_list("pk", flat=True)[: LETTERS_MAX + 1])
    if len(chosen) > LETTERS_MAX:
        messages.warning(request, f"Nothing done: {LETTERS_MAX} at most. For more: manage.py replay_dead_letters.")
        return None
    letters = find(Wanted(ids=tuple(chosen))).filter(pk__in=chosen).values_list("pk", flat=True)
    found = list(prepare(list(letters), Correction()))
    fit = [one for one in found if one.refusal is None]
    form = ReasonForm(request.POST if CONFIRMED in request.POST else None)
    if fit and form.is_valid():
        _replay(request, user, fit, reason=form.cleaned_data["reason"])
        return None
    context = {
        **admin.site.each_context(request),
        "title": "Replay dead letters",
        "opts": page.opts,
        "fit": fit,
        "unfit": [one for one in found if one.refusal is not None],
        "others": len(chosen) - len(found),
        "form": form,
        "checkbox": ACTION_CHECKBOX_NAME,
        "confirmed": CONFIRMED,
    }
    return render(request, "backoffice/replay.html", context, status=422 if form.errors else 200)


def _replay(request: HttpRequest, user: User, fit: Sequence[Prepared], *, reason: str) -> None:
    # First the entries, then the deed, which is commits of its own: a note without a deed is better than the reverse.
    # What was really sent is in the rows of the replays.
    _note(user, fit, f"Replay asked for: {reason}")
    ids: list[UUID] = [one.letter.id for one in fit]
    sent = sum(replay(ids, Correction(), Because(by=user.get_username(), reason=reason, now=timezone.now())))
    if sent:
        messages.success(request, f"{sent} {'message is' if sent == 1 else 'messages are'} on the way again.")
    if sent < len(ids):
        messages.warning(request, f"{len(ids) - sent} not sent: somebody else sent them meanwhile.")


def _note(user: User, fit: Sequence[Prepared], text: str) -> None:
    kind = ContentType.objects.get_by_natural_key("messaging", "message")
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=user.pk,
            content_type=kind,
            object_id=str(one.letter.id),
            object_repr=f"{one.letter.schema} {one.letter.key}"[:200],
            action_flag=CHANGE,
            change_message=text,
        )
        for one in fit
    )
