"""Messages that run side by side: a group, its results, and what comes after all of them.

The results come in the order of the group, whatever order the actors finish in. A completion
callback is a message that is sent once all members have succeeded; it gets no results, so that it
is as small for a million members as for three.

    python examples/message_groups.py
"""

import time

import localq


@localq.actor
def bake(cake, minutes):
    time.sleep(minutes / 100)
    return f"{cake} after {minutes} minutes"


@localq.actor
def open_shop(day):
    return f"the shop is open on {day}"


if __name__ == "__main__":
    opening = open_shop.message("Monday")
    cakes = localq.group([bake.message("cheesecake", 30), bake.message("sponge", 20), bake.message("muffins", 10)])
    cakes.add_completion_callback(opening)
    with localq.pool(processes=2):
        cakes.run()
        cakes.wait(timeout=10_000)  # milliseconds
        print(f"{cakes.completed_count} of {len(cakes)} are done")
        for result in cakes.get_results():
            print("baked:", result)
        print(opening.get_result(block=True))

        # Without wait, each step of this loop waits for the next result.
        more = localq.group(bake.message(f"tray {number}", 5) for number in range(1, 4))
        for result in more.run().get_results(block=True, timeout=10_000):
            print("baked:", result)
