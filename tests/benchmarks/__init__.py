"""What localq costs: measured, beside the bare loop, and beside dramatiq on Redis.

`road` prints the table, `profile_road` says where the microseconds go, `raw_loop` is what the
figures are divided by.
"""
