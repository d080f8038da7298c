"""The promises under attack: processes are killed at random moments, and at chosen ones.

`kills` is the command, `arena` one pool with its senders and how they are killed, `actors` and `sender`
what runs there, `ledger` what must hold afterwards. `fault_points` ends a process at a boundary that
has a name.
"""
