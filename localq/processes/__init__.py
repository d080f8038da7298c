"""Pools of worker processes: who starts them, what they are, what they run."""
