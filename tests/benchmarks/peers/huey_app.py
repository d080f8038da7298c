"""What huey's worker program imports: it wants an object, not a function."""

from __future__ import annotations

import os

from .huey_sqlite import FILE_VARIABLE, declare

huey, _ = declare(os.environ[FILE_VARIABLE])
