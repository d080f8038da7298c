"""Actors that are told how other actors fare.

``on_success`` names the actor that gets a message and its result, ``on_failure`` the one that hears
of each attempt that failed, and ``on_retry_exhausted`` the one that hears of the end, once. They are
options of an actor, for all of its messages, or of one message.

    python examples/message_callbacks.py
"""

import logging

import localq

# What fails below is meant to; without this, its tracebacks are logged.
logging.getLogger("localq").setLevel(logging.CRITICAL)


@localq.actor(max_retries=1, min_backoff=50)
def divide(dividend, divisor):
    return dividend / divisor


@localq.actor
def celebrate(message, result):
    print(f"{message['args']}: the result is {result}")


@localq.actor
def take_note(message, error):
    attempt = message["options"]["retries"]
    print(f"{message['args']}: attempt {attempt} failed with {error['type']}: {error['message']}")


@localq.actor
def give_up(message, counts):
    print(f"{message['args']}: given up after {counts['retries']} of {counts['max_retries']} retries")


if __name__ == "__main__":
    broker = localq.get_broker()
    with localq.pool(processes=1):
        divide.send_with_options(args=(6, 3), on_success=celebrate, on_failure=take_note)
        broker.join(divide.queue_name)  # until nothing is waiting, delayed or running
        divide.send_with_options(args=(6, 0), on_success=celebrate, on_failure=take_note)
        broker.join(divide.queue_name)
        divide.send_with_options(args=(1, 0), on_retry_exhausted=give_up)
        broker.join(divide.queue_name)
