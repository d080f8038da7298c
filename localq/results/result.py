"""How a backend keeps what a message came to: its value, or what it failed by."""

from __future__ import annotations

from typing import Any

from ..errors import ResultFailure, text_of


def wrap_result(result: Any) -> dict[str, Any]:
    """What is kept of a value that an actor returned."""
    return {"result": result}


def wrap_exception(exception: BaseException) -> dict[str, Any]:
    """What is kept of what a message failed by."""
    return {"exception": {"type": type(exception).__name__, "msg": text_of(exception)}}


def unwrap_result(kept: Any) -> Any:
    """The value in what was kept; a bare value, which some backend may have kept, is itself.

    Raises:
      ResultFailure: it tells of a failure.
    """
    if not isinstance(kept, dict):
        return kept
    failure = kept.get("exception")
    if failure is None:
        return kept["result"] if kept.keys() == {"result"} else kept
    raise ResultFailure(
        f"actor raised {failure['type']}: {failure['msg']}",
        orig_exc_type=failure["type"],
        orig_exc_msg=failure["msg"],
    )
