"""Messages that run one after the other, each with the result of the one before.

The result is passed as the last positional argument. A step with the option ``pipe_ignore`` is
called without it. A pipeline is written as a list or with ``|``; both are the same.

    python examples/message_pipelines.py
"""

import localq

TEXTS = {"haiku": "an old silent pond / a frog jumps into the pond / splash silence again"}


@localq.actor
def fetch_text(name):
    return TEXTS[name]


@localq.actor
def count_word(word, text):
    return text.split().count(word)


@localq.actor
def describe_count(word, count):
    return f"{word!r} stands there {count} times"


@localq.actor
def tidy_up():
    return "tidied up"


if __name__ == "__main__":
    with localq.pool(processes=2):
        as_list = localq.pipeline(
            [fetch_text.message("haiku"), count_word.message("pond"), describe_count.message("pond")]
        ).run()
        print("list:", as_list.get_result(block=True, timeout=10_000))

        with_bars = fetch_text.message("haiku") | count_word.message("a") | describe_count.message("a")
        print("bars:", with_bars.run().get_result(block=True, timeout=10_000))

        # tidy_up takes no argument: the count that it comes after is not passed to it.
        tidied = (
            fetch_text.message("haiku")
            | count_word.message("frog")
            | tidy_up.message_with_options(pipe_ignore=True)
        )
        for step, result in enumerate(tidied.run().get_results(block=True, timeout=10_000), start=1):
            print(f"step {step}:", result)
