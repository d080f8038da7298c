"""Keeping what actors return, and asking for it."""

from __future__ import annotations

from ..errors import ResultError, ResultFailure, ResultMissing, ResultTimeout
from .backend import Missing, ResultBackend
from .middleware import Results

__all__ = [
    "Missing",
    "ResultBackend",
    "ResultError",
    "ResultFailure",
    "ResultMissing",
    "ResultTimeout",
    "Results",
]
