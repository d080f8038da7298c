"""Two pools, each bound to a queue: what is urgent never waits behind what is slow.

    python examples/two_pools.py

With one pool for both queues, slow messages would soon be all that its processes run, and urgent ones
would wait until one of them has ended.

The same with pools from the command line, in three terminals. All find the same queue because they belong to
one project, that of the folder with the ``pyproject.toml``; elsewhere, set LOCALQ_URL in all::

    localq two_pools --path examples --queues slow --processes 1
    localq two_pools --path examples --queues urgent --processes 1
    python examples/two_pools.py --no-pools

A pool with ``queues`` runs no others, so each queue must be given to one.
"""

import sys
import time

import localq


@localq.actor(queue_name="slow")
def render(film):
    time.sleep(0.5)
    return film


@localq.actor(queue_name="urgent")
def answer(question):
    return f"{question}? Yes."


def main():
    films = localq.group(render.message(film) for film in ("first", "second", "third")).run()
    questions = localq.group(answer.message(question) for question in ("Tea", "Now")).run()
    for text in questions.get_results(block=True):
        print(text)
    print(f"the urgent ones are done, and {films.completed_count} of {len(films)} slow ones")
    for film in films.get_results(block=True):
        print(f"the {film} film is rendered")


if __name__ == "__main__":
    if "--no-pools" in sys.argv:
        main()
    else:
        with localq.pool(queues=["slow"], processes=1), localq.pool(queues=["urgent"], processes=1):
            main()
