"""Three actors, two worker processes, and their results: python examples/quickstart.py"""

import localq
from localq.middleware import CurrentMessage


@localq.actor
def add(x, y):
    return x + y


@localq.actor
def describe(what, value):
    return f"{what} is {value}"


@localq.actor(max_retries=5)
def succeed_at_third_attempt():
    attempt = 1 + CurrentMessage.get_current_message().options.get("retries", 0)
    if attempt < 3:
        raise localq.Retry(f"attempt {attempt} failed", delay=50)
    return f"succeeded at attempt {attempt}"


if __name__ == "__main__":
    with localq.pool(processes=2):
        sums = [add.send(n, n) for n in range(5)]
        described = (add.message(1, 2) | describe.message("the sum of 1 and 2")).run()
        retried = succeed_at_third_attempt.send()
        print("sums:", [message.get_result(block=True) for message in sums])
        print("pipeline:", described.get_result(block=True))
        print("retries:", retried.get_result(block=True))
