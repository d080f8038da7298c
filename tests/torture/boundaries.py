"""Every boundary that a process passes in each scenario, in order; a test proves that none is left out."""

from __future__ import annotations

import re

CLAIM = """
    claim: before the gate, inside the gate, before BEGIN, before promote, before CLAIM_SUSPECT,
        before claim, before COMMIT, after COMMIT, outside the gate, before a look for sleepers,
        at the end
"""
RUN = """
    run: before its cell says so, after its cell says so, before its cell is empty,
        after its cell is empty
"""

TEXT = {
    "put one": """
        put: before the gate, inside the gate, before BEGIN, before INSERT, before COMMIT, after COMMIT,
            outside the gate, before on_stored, after on_stored, before a look for sleepers, before a bell,
            after a bell, before a look for sleepers, at the end
    """,
    "put many": """
        put: before the gate, inside the gate, before BEGIN, before INSERT, before INSERT, before INSERT,
            before COMMIT, after COMMIT, outside the gate, before on_stored, after on_stored,
            before a look for sleepers, before a bell, after a bell, before a look for sleepers, at the end
    """,
    "put a large one": """
        put: before the gate, inside the gate, before BEGIN, before INSERT, before INSERT_PAYLOAD,
            before COMMIT, after COMMIT, outside the gate, before on_stored, after on_stored,
            before a look for sleepers, before a bell, after a bell, before a look for sleepers, at the end
    """,
    "put a delayed one": """
        put: before the gate, inside the gate, before BEGIN, before INSERT, before COMMIT, after COMMIT,
            outside the gate, before on_stored, after on_stored, before a look for sleepers, before a bell,
            after a bell, before a look for sleepers, at the end
    """,
    "run one": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before promote,
            before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate, at the end
    """,
    "run one that was delayed": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before SET_VALUE,
            before promote, before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, before a bell, after a bell, at the end
    """,
    "run a suspect": f"""
        claim: before the gate, inside the gate, before BEGIN, before promote, before CLAIM_SUSPECT,
            before COMMIT, after COMMIT, outside the gate, before a look for sleepers, at the end
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before SET_VALUE,
            before COMMIT, after COMMIT, outside the gate, before a look for sleepers, before a bell,
            after a bell, at the end
        claim: before the gate, inside the gate, before BEGIN, before promote, before CLAIM_SUSPECT,
            before claim, before COMMIT, after COMMIT, outside the gate, at the end
    """,
    "run a large one with a large result": f"""
        claim: before the gate, inside the gate, before BEGIN, before promote, before CLAIM_SUSPECT,
            before claim, before SELECT_PAYLOAD, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, at the end
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before DELETE_PAYLOAD,
            before SET_VALUE, before promote, before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT,
            outside the gate, before a look for sleepers, before a bell, after a bell, at the end
    """,
    "run one that is retried": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before RETRY, before promote,
            before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, before a look for sleepers, at the end
    """,
    "run a large one that is retried": f"""
        claim: before the gate, inside the gate, before BEGIN, before promote, before CLAIM_SUSPECT,
            before claim, before SELECT_PAYLOAD, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, at the end
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before RETRY, before INSERT_PAYLOAD,
            before promote, before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, before a look for sleepers, at the end
    """,
    "run one that becomes a dead letter": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before BURY, before SET_VALUE, before promote,
            before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, before a bell, after a bell, at the end
    """,
    "give one back that others know": f"""
        {CLAIM}
        finish: before the gate, inside the gate, before BEGIN, before RELEASE, before promote,
            before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, before a look for sleepers, at the end
    """,
    "run a step of a pipeline": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before INSERT,
            before SET_VALUE, before promote, before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT,
            outside the gate, before a look for sleepers, before a bell, after a bell,
            before a look for sleepers, before a look for sleepers, at the end
    """,
    "run the members of a group": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before SET_VALUE,
            before STEP_COUNTER, before promote, before CLAIM_SUSPECT, before claim, before COMMIT,
            after COMMIT, outside the gate, before a look for sleepers, before a look for sleepers, at the end
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before SET_VALUE,
            before STEP_COUNTER, before DELETE_COUNTER, before INSERT, before promote, before CLAIM_SUSPECT,
            before claim, before COMMIT, after COMMIT, outside the gate, before a look for sleepers,
            before a bell, after a bell, before a look for sleepers, before a look for sleepers, at the end
    """,
    "run the members of a group, of which one fails": f"""
        {CLAIM}
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before remove, before SET_VALUE,
            before STEP_COUNTER, before promote, before CLAIM_SUSPECT, before claim, before COMMIT,
            after COMMIT, outside the gate, before a look for sleepers, before a look for sleepers, at the end
        {RUN}
        finish: before the gate, inside the gate, before BEGIN, before BURY, before SET_VALUE,
            before SET_VALUE, before STEP_COUNTER, before DELETE_COUNTER, before PUT_EVENT, before INSERT,
            before promote, before CLAIM_SUSPECT, before claim, before COMMIT, after COMMIT, outside the gate,
            before a look for sleepers, before a bell, after a bell, before a look for sleepers,
            before a look for sleepers, before a look for sleepers, before a look for sleepers, at the end
    """,
}


def boundaries(text: str) -> list[str]:
    """The names in one of the texts, each with its verb.

    >>> boundaries("claim: at the end run: before it, after it")
    ['claim: at the end', 'run: before it', 'run: after it']
    """
    _, *parts = re.split(r"\b(put|claim|run|finish): ", " ".join(text.split()))
    verbs = zip(parts[::2], parts[1::2], strict=True)
    return [f"{verb}: {name}" for verb, names in verbs for name in names.strip().split(", ")]


BOUNDARIES = {name: boundaries(text) for name, text in TEXT.items()}
