"""Text and attributes of a page, escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping


def text(value: object) -> str:
    """Return a value as text of an HTML or SVG element."""
    return html.escape(str(value), quote=True)


def attributes(values: Mapping[str, object]) -> str:
    """Return `name="value"` pairs; a value of True is the name alone, None and False are left out."""
    shown = ((name, value) for name, value in values.items() if value is not None and value is not False)
    return " ".join(name if value is True else f'{name}="{text(value)}"' for name, value in shown)


def element(name: str, values: Mapping[str, object], content: str) -> str:
    """Return an element with its attributes; the content is HTML."""
    return f"<{name} {attributes(values)}>{content}</{name}>"


def swatch(run: int) -> str:
    """Return the mark in a run's colour; what it stands for is written beside it."""
    return f'<span class="swatch" data-run-colour="{run}" aria-hidden="true"></span>'


def table(header: Iterable[str], rows: Iterable[str], caption: str) -> str:
    """Return a table that scrolls inside its own box, which the keyboard can reach.

    Args:
        header: cells, escaped. rows: `<tr>` or `<tbody>` elements.
    """
    head = "".join(header)
    content = f'<caption class="hidden">{text(caption)}</caption><thead><tr>{head}</tr></thead>{"".join(rows)}'
    box = {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": caption}
    return element("div", box, f"<table>{content}</table>")
