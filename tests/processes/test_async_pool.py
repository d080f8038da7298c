"""``async with localq.pool``: the event loop goes on while its processes start and stop."""

from __future__ import annotations

import pytest

from .scripts import ACTORS, BEGINNING, run
from .support import Lab, both_start_methods

COROUTINES = (
    ACTORS
    + """
import asyncio

@localq.actor
async def triple(x):
    await asyncio.sleep(0)
    return 3 * x

def pool(**options):
    return localq.pool(**{"processes": 1, "start_method": METHOD, **options})

async def until_held(name):
    while not (notes.FOLDER / "notes").exists() or f"held {name} " not in (notes.FOLDER / "notes").read_text():
        await asyncio.sleep(0.005)
"""
)


@both_start_methods
def test_it_runs_what_coroutines_send(lab: Lab) -> None:
    script = run(
        lab,
        """
        async def main():
            async with pool(processes=2) as running:
                assert running.is_running
                messages = [await actor.asend(n) for n in range(3) for actor in (double, triple)]
                results = [message.aget_result(timeout=30_000) for message in messages]
                print(await asyncio.gather(*results))
            assert not running.is_running

        asyncio.run(main())
        """,
        beginning=COROUTINES,
    )
    assert script.out() == "[0, 0, 2, 3, 4, 6]\n"
    assert script.log() == ""


@both_start_methods
def test_the_loop_goes_on_while_it_stops(lab: Lab) -> None:
    script = run(
        lab,
        """
        async def main():
            async with pool():
                message = await hold.asend("slow")
                await until_held("slow")

                async def release():
                    await asyncio.sleep(0.05)  # the block has been left: it waits for what runs
                    (notes.FOLDER / "release-slow").touch()

                releasing = asyncio.ensure_future(release())
            await releasing
            print(await message.aget_result())

        asyncio.run(main())
        """,
        beginning=COROUTINES,
    )
    assert script.out() == "slow\n"


@both_start_methods
def test_who_is_cancelled_in_the_block_leaves_it_properly(lab: Lab) -> None:
    script = run(
        lab,
        """
        async def use(inside):
            async with pool():
                print(await (await double.asend(1)).aget_result(timeout=30_000))
                inside.set()
                await asyncio.sleep(3600)

        async def main():
            inside = asyncio.Event()
            using = asyncio.ensure_future(use(inside))
            await inside.wait()
            using.cancel()
            try:
                await using
            except asyncio.CancelledError:
                print("cancelled")

        asyncio.run(main())
        """,
        beginning=COROUTINES,
    )
    assert script.out() == "2\ncancelled\n"


@both_start_methods
def test_who_is_cancelled_while_it_stops_has_the_processes_end_at_once(lab: Lab) -> None:
    script = run(
        lab,
        """
        async def use():
            async with pool():
                sent.append(await hold.asend("stubborn"))
                await until_held("stubborn")

        async def main():
            using = asyncio.ensure_future(use())
            await until_held("stubborn")
            await asyncio.sleep(0.2)  # it waits for what runs, which would go on for ever
            assert not using.done()
            using.cancel()
            try:
                await using
            except asyncio.CancelledError:
                print("cancelled")
            (notes.FOLDER / "release-stubborn").touch()
            async with pool():
                print(await sent[0].aget_result(timeout=30_000))

        sent = []
        asyncio.run(main())
        """,
        beginning=COROUTINES,
    )
    assert script.out() == "cancelled\nstubborn\n"


@both_start_methods
def test_what_keeps_it_from_starting_is_raised(lab: Lab) -> None:
    script = run(
        lab,
        """
        async def main():
            localq.connect("memory://")
            try:
                async with pool():
                    print("never")
            except localq.PoolError as error:
                print(error)

        asyncio.run(main())
        """,
        beginning=COROUTINES,
    )
    assert "no worker process can see them" in script.out()


@pytest.mark.parametrize("start_method", ["fork"], indirect=True)
def test_a_program_of_one_thread_is_forked_and_one_of_several_starts_afresh(lab: Lab) -> None:
    script = run(
        lab,
        """
        LOADED = [1]

        @localq.actor
        def loaded():
            return LOADED

        async def main():
            LOADED.append(2)  # only a fork has that
            async with pool():
                print(await (await loaded.asend()).aget_result(timeout=30_000))
            # Sending has started threads of asyncio's: a fork would not be safe, and `loaded` cannot be found.
            try:
                async with pool():
                    print("never")
            except localq.PoolError as error:
                print("loaded" in str(error))

        asyncio.run(main())
        """,
        beginning=BEGINNING + "import asyncio\ndef pool(): return localq.pool(processes=1, start_method=METHOD)\n",
    )
    assert script.out() == "[1, 2]\nTrue\n"
