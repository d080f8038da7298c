"""The limits of two actors, which the ledger checks."""

PLACES = 3
"""How many may be inside at the same time."""
PER_SECOND = 25
"""How many may begin within one second."""
