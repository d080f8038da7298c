"""The benchmarks read /proc, fork and use flock: elsewhere than on Linux, their tests cannot even be imported."""

from __future__ import annotations

import sys

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
