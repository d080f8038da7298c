"""Names of queues: which are allowed, and dramatiq's three forms of one.

dramatiq keeps delayed messages in a queue ``X.DQ`` and dead ones in ``X.XQ``.
Here they are states of a message in ``X``; the forms remain for those who
write or read them.
"""

from __future__ import annotations

import re

queue_name_re = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")


def check_queue_name(name: str) -> str:
    """The name, if it is allowed.

    Raises:
      ValueError: it is not; the text says what is.
    """
    if not isinstance(name, str) or queue_name_re.fullmatch(name) is None:
        raise ValueError(
            f"{name!r} is no name for a queue: it must start with a letter or an underscore, and go on with "
            "letters, digits, dots, dashes and underscores"
        )
    return name


def check_actor_name(name: str) -> str:
    """The name, if it can be that of an actor: any text that can be stored, and looked for.

    Raises:
      TypeError: it is no string.
      ValueError: it has a NUL, where SQLite ends some texts, or half a character.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an actor is a string, not {name!r}")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"{name!r} is no name for an actor: it has a character that cannot be stored")
    return name


def q_name(queue_name: str) -> str:
    """The canonical form of any of the three.

    >>> q_name("mail.DQ")
    'mail'
    """
    return queue_name[:-3] if queue_name.endswith((".DQ", ".XQ")) else queue_name


def dq_name(queue_name: str) -> str:
    """The form for delayed messages.

    >>> dq_name("mail.XQ")
    'mail.DQ'
    """
    return f"{q_name(queue_name)}.DQ"


def xq_name(queue_name: str) -> str:
    """The form for dead letters.

    >>> xq_name("mail")
    'mail.XQ'
    """
    return f"{q_name(queue_name)}.XQ"
