"""Writing what messages say to a terminal, which obeys what it is sent."""

from __future__ import annotations

LONGEST = 1000
"""Characters of one text that are shown to a person."""


def printable(text: object) -> str:
    r"""A text in which nothing is left that a terminal would obey, or that cannot be written.

    >>> printable("red \x1b[31m\n")
    'red \\x1b[31m\\n'
    """
    shown = str(text)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}... ({len(shown)} characters)"
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)
