"""Pools of worker processes: who starts them, what they are, what they run."""

from __future__ import annotations
