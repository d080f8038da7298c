"""Actors that are coroutines: several of them wait at the same time in one process.

Each worker process has one event loop, on which its ``async def`` actors run: up to 100 messages at
the same time, however few threads the process has. They can share what belongs to a loop, such as an
HTTP client or, here, an `asyncio.Event`. `CurrentMessage` knows the message of each coroutine.

    python examples/async_actors.py
"""

import asyncio

import localq
from localq.middleware import CurrentMessage

GUESTS = ["Ada", "Barbara", "Grace", "Katherine", "Margaret"]

here = []
all_are_here = asyncio.Event()


@localq.actor
async def dine(guest):
    """Nobody begins before all are there: if they ran one after the other, none would ever end."""
    here.append(guest)
    if len(here) == len(GUESTS):
        all_are_here.set()
    await all_are_here.wait()
    return f"{guest} dined with {len(here) - 1} others", CurrentMessage.get_current_message().message_id


if __name__ == "__main__":
    with localq.pool(processes=1):
        messages = [dine.send(guest) for guest in GUESTS]
        for message in messages:
            text, message_id = message.get_result(block=True, timeout=10_000)
            print(text, "and knew its message" if message_id == message.message_id else "and was confused")
