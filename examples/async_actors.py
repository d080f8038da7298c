"""Actors that are coroutines: several of them wait at the same time in one process.

Each worker process has one event loop, on which its ``async def`` actors run: up to 100 messages at
the same time, however few threads the process has. They can share what belongs to a loop, such as an
HTTP client or, here, an `asyncio.Semaphore`. `CurrentMessage` knows the message of each coroutine.

    python examples/async_actors.py
"""

import asyncio
import time

import localq
from localq.middleware import CurrentMessage

GUESTS = ["Ada", "Barbara", "Grace", "Katherine", "Margaret"]
MEAL = 1  # second

tables = asyncio.Semaphore(20)


@localq.actor
async def dine(guest):
    """Waits, as for a slow server. With a `time.sleep` in this place, nobody else would begin meanwhile."""
    async with tables:
        await asyncio.sleep(MEAL)
    return guest, CurrentMessage.get_current_message().message_id


if __name__ == "__main__":
    with localq.pool(processes=1):
        began = time.monotonic()
        messages = [dine.send(guest) for guest in GUESTS]
        for message in messages:
            guest, message_id = message.get_result(block=True, timeout=10_000)
            print(guest, "has dined and", "knew" if message_id == message.message_id else "mistook", "the message")
        at_once = time.monotonic() - began < len(GUESTS) * MEAL
        print("All dined", "at the same time" if at_once else "one after the other")
