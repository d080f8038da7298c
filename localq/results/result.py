"""How a backend keeps what a message came to: its value, or what it failed by.

A value is kept as it is, and a failure as dramatiq keeps it, since there are
backends that are looked into.
"""

from __future__ import annotations

from typing import Any

from ..errors import ResultFailure, text_of

KIND = "__t"
"""The key by which what is no plain value is known."""
FAILURE = "dramatiq.results.Result"
VALUE = "localq.results.Value"
"""The kind of a value that could be taken for something else."""


def wrap_result(res: Any) -> Any:
    """What is kept of a value that an actor returned."""
    return {KIND: VALUE, "value": res} if isinstance(res, dict) and KIND in res else res


def wrap_exception(e: BaseException) -> dict[str, Any]:
    """What is kept of what a message failed by."""
    return {KIND: FAILURE, "exn": {"type": type(e).__name__, "msg": text_of(e)}}


def is_failure(res: Any) -> bool:
    """Whether what was kept tells of a failure."""
    return isinstance(res, dict) and res.get(KIND) == FAILURE and isinstance(res.get("exn"), dict)


def unwrap_result(res: Any) -> Any:
    """The value in what was kept.

    Raises:
      ResultFailure: it tells of a failure.
    """
    if is_failure(res):
        kind, text = str(res["exn"].get("type")), str(res["exn"].get("msg"))
        raise ResultFailure(f"actor raised {kind}: {text}", orig_exc_type=kind, orig_exc_msg=text)
    return res["value"] if isinstance(res, dict) and res.get(KIND) == VALUE and "value" in res else res
