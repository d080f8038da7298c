"""What localq costs: measured, beside the bare loop over the same SQL, and beside other libraries.

`road` prints the table; its rows are in `goals`, what measures them in `groups`, the other libraries in
`peers`. `plot` draws, `profile_road` says where the microseconds go, `raw_loop` is what many figures are
divided by.
"""
