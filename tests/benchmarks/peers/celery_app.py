"""What celery's worker program imports."""

from __future__ import annotations

import os

from .celery_redis import URL_VARIABLE, declare

app, _ = declare(os.environ[URL_VARIABLE])
