"""Names as text: a path is bytes, which no alphabet need know, and a name may hold a line break or a formula."""

from __future__ import annotations

import os
import unicodedata

# What a spreadsheet takes for the beginning of a formula.
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
MOST_BYTES = 200  # of a part of a file name, of the 255 that file systems allow


def printable(text: str) -> str:
    """Return a text on one line that can be written and shown: other bytes and characters as \\xe9, \\n, \\u202e."""
    return "".join(char if char.isprintable() or unicodedata.category(char) == "Zs" else escape(char) for char in text)


def escape(char: str) -> str:
    """Return a character as it is written in Python; one that stands for a byte of a path, as that byte."""
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    code = ord(char)
    return (
        char.encode("unicode_escape").decode()
        if code < 0x80
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def file_part(text: str) -> str:
    """Return a text as part of a file name: without slashes and what cannot be printed, and not too long for it."""
    return printable(text).replace(os.sep, "_").encode()[:MOST_BYTES].decode(errors="ignore")


def spreadsheet_text(text: str, sign: str = "'") -> str:
    """Return a text that a spreadsheet will not take for a formula: `sign` stands before one that begins like it.

    A number stays a number. The sign may be "./", which leaves a relative path the path that it is. NUL, which Python
    3.10 writes into no CSV file, is escaped.
    """
    text = text.replace("\0", "\\x00")
    return text if not text.startswith(FORMULA_SIGNS) or is_number(text) else sign + text


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
