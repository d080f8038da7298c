"""So many at a time, and so many in a stretch of time, over all worker processes.

A limiter does not wait. Where there is no place it raises `RateLimitExceeded`, and the message is
retried as after any other exception (a rate limit is just not logged as an error); or, with
``raise_on_failure=False``, it says so.

    python examples/limit_rates.py
"""

import time
from itertools import pairwise
from uuid import uuid4

import localq
from localq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from localq.rate_limits.backends import SQLiteBackend

BACKEND = SQLiteBackend()  # in the file of the queue
PRINTER = ConcurrentRateLimiter(BACKEND, "the printer", limit=1)


@localq.actor(max_retries=None, min_backoff=20, max_backoff=100)
def print_page(number):
    with PRINTER.acquire():
        began = time.monotonic()
        time.sleep(0.05)
        return began, time.monotonic()


@localq.actor
def print_if_idle():
    with PRINTER.acquire(raise_on_failure=False) as acquired:
        return "printed" if acquired else "the printer is busy"


@localq.actor
def remind(customer):
    """At most 3 mails a minute to each customer: the key says what is limited."""
    limiter = WindowRateLimiter(BACKEND, f"mails to {customer}", limit=3, window=60)  # seconds
    with limiter.acquire(raise_on_failure=False) as acquired:
        return "sent" if acquired else "dropped"


if __name__ == "__main__":
    with localq.pool(processes=4):
        pages = localq.group(print_page.message(number) for number in range(8)).run()
        times = sorted(pages.get_results(block=True, timeout=60_000))
        overlaps = sum(later[0] < earlier[1] for earlier, later in pairwise(times))
        print(f"{len(times)} pages, {overlaps} of them while another was printed")

        with PRINTER.acquire():
            print("while this program holds the printer:", print_if_idle.send().get_result(block=True))
        print("after that:", print_if_idle.send().get_result(block=True))

        customer = f"customer {uuid4()}"
        reminders = localq.group(remind.message(customer) for _ in range(5)).run()
        print("reminders:", *sorted(reminders.get_results(block=True), reverse=True))
