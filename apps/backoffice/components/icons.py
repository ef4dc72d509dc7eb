"""Our icons: 16 × 16, drawn with the current colour. A state has the same shape in list, chip, timeline and tile."""

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

PATHS = {
    "ok": '<circle cx="8" cy="8" r="6.2"/><path d="M5.2 8.2l2 2 3.7-4.2"/>',
    "run": '<circle cx="8" cy="8" r="6.2"/><path d="M6.6 5.4v5.2L10.8 8z"/>',
    "wait": (
        '<path d="M4.2 2.2h7.6M4.2 13.8h7.6M5 2.2c0 3.4 6 4.2 6 5.8s-6 2.4-6 5.8M11 2.2c0 3.4-6 4.2-6 5.8s6 2.4 6 5.8"/>'
    ),
    "warn": '<path d="M8 2.2l6.2 11.1H1.8z"/><path d="M8 6.4v3.2M8 11.4v.1"/>',
    "bad": '<path d="M5.4 1.9h5.2l3.5 3.5v5.2l-3.5 3.5H5.4l-3.5-3.5V5.4z"/><path d="M6 6l4 4M10 6l-4 4"/>',
    "undo": '<path d="M5.6 3L2.6 6l3 3"/><path d="M2.6 6h6.6a4 4 0 010 8H6"/>',
    "unknown": (
        '<path d="M8 1.6L14.4 8 8 14.4 1.6 8z"/><path d="M6.6 6.6c0-1.8 2.9-1.8 2.9 0 0 1.1-1.4 1.2-1.4 2.3M8.1 10.9v.1"/>'
    ),
    "close": '<path d="M4 4l8 8M12 4l-8 8"/>',
    "clock": '<circle cx="8" cy="8" r="6.2"/><path d="M8 4.6V8l2.4 1.5"/>',
    "bar": '<circle cx="8" cy="8" r="6.2"/><path d="M5 8h6"/>',
    "lock": '<rect x="3.2" y="7" width="9.6" height="6.8" rx="1.4"/><path d="M5.2 7V5a2.8 2.8 0 015.6 0v2"/>',
    "out": '<path d="M2.4 8h10M9.2 4.6L12.6 8l-3.4 3.4"/>',
    "eye": (
        '<path d="M1.6 8C3 5.2 5.3 3.8 8 3.8S13 5.2 14.4 8C13 10.8 10.7 12.2 8 12.2S3 10.8 1.6 8z"/>'
        '<circle cx="8" cy="8" r="2"/>'
    ),
    "person": '<circle cx="8" cy="5.2" r="2.8"/><path d="M2.6 13.8c.6-3 2.8-4.2 5.4-4.2s4.8 1.2 5.4 4.2"/>',
    "pivot": '<path d="M8 1.8L14.2 8 8 14.2 1.8 8z" fill="currentColor"/>',
    "fork": (
        '<circle cx="4" cy="3.6" r="1.8"/><circle cx="4" cy="12.4" r="1.8"/><circle cx="12" cy="6" r="1.8"/>'
        '<path d="M4 5.4v5.2M12 7.8c0 2.4-4.6 1.4-7 3.2"/>'
    ),
    "edit": '<path d="M10.8 2.6l2.6 2.6L5.6 13H3v-2.6z"/><path d="M9.2 4.2l2.6 2.6"/>',
    "skip": '<path d="M3 3.2v9.6L9.6 8z"/><path d="M12.6 3.2v9.6"/>',
    "in": '<path d="M13.6 8h-10M6.8 4.6L3.4 8l3.4 3.4"/>',
    "down": '<path d="M8 2v7.6M4.8 6.8L8 10l3.2-3.2M2.6 13.4h10.8"/>',
    "again": '<path d="M13.4 8a5.4 5.4 0 11-1.7-3.9"/><path d="M13.6 2v3h-3"/>',
}


def icon(name: str, css: str = "") -> SafeString:
    """The icon as inline SVG, hidden from screen readers: a word stands beside it. Raises KeyError for an unknown name."""
    drawing = mark_safe(PATHS[name])  # noqa: S308  # a constant of this file
    return format_html('<svg class="bo-i {}" viewBox="0 0 16 16" aria-hidden="true">{}</svg>', css, drawing)
