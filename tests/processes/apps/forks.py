"""Ways to fork in the middle of sending; each sends the numbers from 0 to 399."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading

import notes
from tasks import mail

import localq


def send(first, count):
    for number in range(first, first + count):
        mail.send(number)


def end_of(child):
    assert os.waitpid(child, 0)[1] == 0


def one_child():
    send(0, 100)
    child = os.fork()
    if not child:
        send(100, 100)
        os._exit(0)
    send(200, 100)
    end_of(child)
    send(300, 100)


def a_grandchild():
    send(0, 100)
    child = os.fork()
    if not child:
        send(100, 50)
        grandchild = os.fork()
        if not grandchild:
            send(200, 100)
            os._exit(0)
        send(150, 50)
        end_of(grandchild)
        os._exit(0)
    send(300, 100)
    end_of(child)


def a_child_that_closes_the_broker():
    send(0, 100)
    child = os.fork()
    if not child:
        send(100, 100)
        localq.get_broker().close()
        os._exit(0)
    send(200, 100)
    end_of(child)
    send(300, 100)


def a_child_that_never_sends():
    send(0, 200)
    child = os.fork()
    if not child:
        os._exit(0)
    end_of(child)
    send(200, 200)


def a_child_that_sends_first():
    child = os.fork()
    if not child:
        send(0, 200)
        os._exit(0)
    send(200, 200)
    end_of(child)


def multiprocessing_by_fork():
    send(0, 100)
    child = multiprocessing.get_context("fork").Process(target=send, args=(100, 200))
    child.start()
    send(300, 100)
    child.join()
    assert child.exitcode == 0


def multiprocessing_by_spawn():
    send(0, 100)
    child = multiprocessing.get_context("spawn").Process(target=send, args=(100, 200))
    child.start()
    send(300, 100)
    child.join()
    assert child.exitcode == 0


def a_pool_of_multiprocessing():
    send(0, 100)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(send, [(first, 50) for first in range(100, 400, 50)])
        pool.close()
        pool.join()


def forks_while_a_thread_sends():
    send(0, 1)
    forks_while_a_thread_sends_for_the_first_time(1)


def forks_while_a_thread_sends_for_the_first_time(first_number=0):
    # Nothing is imported or opened yet: the thread does that while the forks happen.
    sender = threading.Thread(target=send, args=(first_number, 300 - first_number))
    sender.start()
    for first in range(300, 400, 20):
        child = os.fork()
        if not child:
            send(first, 20)
            os._exit(0)
        end_of(child)
    sender.join()


FORKS = [
    one_child,
    a_grandchild,
    a_child_that_closes_the_broker,
    a_child_that_never_sends,
    a_child_that_sends_first,
    multiprocessing_by_fork,
    multiprocessing_by_spawn,
    a_pool_of_multiprocessing,
    forks_while_a_thread_sends,
    forks_while_a_thread_sends_for_the_first_time,
]
BY_NAME = {function.__name__: function for function in FORKS}


@localq.actor
def fork(name):
    notes.note("started", os.getpid())
    BY_NAME[name]()
    return os.getpid()


@localq.actor
def child_that_exits():
    notes.note("started", os.getpid())
    child = os.fork()
    if not child:
        sys.exit(0)
    end_of(child)
    return os.getpid()
