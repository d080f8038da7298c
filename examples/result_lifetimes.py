"""How long results are kept, and what asking for one may raise.

Without any setting, the result of every actor is kept for 10 minutes. Here it is kept where the
actor says ``store_results``, for an hour unless the actor says otherwise.

    python examples/result_lifetimes.py
"""

import logging
import time

import localq
from localq.middleware import SkipMessage, default_middleware
from localq.results import ResultFailure, ResultMissing, Results, ResultTimeout

# What fails below is meant to; without this, its traceback is logged.
logging.getLogger("localq").setLevel(logging.CRITICAL)


class SkipHolidays(localq.Middleware):
    """Keeps messages about holidays from running. Such a message is no failure: its result is None."""

    def before_process_message(self, broker, message):
        if message.args == ("Sunday",):
            raise SkipMessage("closed on Sundays")


broker = localq.connect(middleware=[make() for make in default_middleware])
broker.add_middleware(Results(result_ttl=3_600_000))  # milliseconds
broker.add_middleware(SkipHolidays())


@localq.actor(store_results=True)
def count_sales(day):
    return len(day) * 100


@localq.actor(store_results=True, result_ttl=3_000)
def issue_ticket():
    return "ticket 17"


@localq.actor(store_results=True, max_retries=0)
def count_losses(day):
    raise ValueError(f"the books of {day} are missing")


if __name__ == "__main__":
    sales = count_sales.send("Monday")
    try:
        sales.get_result()
    except ResultMissing:
        print("ResultMissing: nobody has run it yet")
    try:
        sales.get_result(block=True, timeout=100)
    except ResultTimeout:
        print("ResultTimeout: nobody has run it within 100 ms")

    with localq.pool(processes=1):
        print("sales of Monday:", sales.get_result(block=True))
        print("sales of Sunday:", count_sales.send("Sunday").get_result(block=True))
        try:
            count_losses.send("Monday").get_result(block=True)
        except ResultFailure as error:
            print(f"ResultFailure: {error.orig_exc_type}: {error.orig_exc_msg}")

        ticket = issue_ticket.send()
        print("issued:", ticket.get_result(block=True))
        time.sleep(3.1)
        try:
            ticket.get_result()
        except ResultMissing:
            print("ResultMissing: its 3 s are over")
        print("sales of Monday, still:", sales.get_result())
