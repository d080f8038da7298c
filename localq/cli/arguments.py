"""How dramatiq's command line is written, where click's way differs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import click

TAKE_ALL_WORDS = {"-Q": "-Q", "--queues": "-Q", "-P": "-P", "--path": "-P"}
DISCOVER, HERE = "--discover", "."

SHORTEST, LONGEST = 10, 1_800_000
"""Milliseconds that fork functions may be told to wait for the workers."""


AS_DRAMATIQ_DOES = "dramatiq"
"""The name of a program that understands words as dramatiq does."""


class WordsAfterOptions(click.Command):
    """``localq MODULE -Q mail default`` names two queues: behind the module, these options take all
    words up to the next option; in dramatiq they do so in front of it as well. ``--discover`` stands for
    a module, and its value may be left out where an option follows, or nothing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        everywhere = ctx.find_root().info_name == AS_DRAMATIQ_DOES
        return super().parse_args(ctx, list(self._one_word_each(args, everywhere)))

    def _one_word_each(self, args: list[str], everywhere: bool) -> Iterator[str]:
        takes_value = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag and not option.count
            for name in option.opts
        }
        option, has_module = "", everywhere
        words = deque(args)
        while words:
            word = words.popleft()
            if word == "--":
                yield from (word, *words)
                return
            if word.startswith("-") and word != "-":
                yield word
                option = TAKE_ALL_WORDS.get(word, "")
                has_module = has_module or word.partition("=")[0] == DISCOVER
                if word == DISCOVER and (not words or words[0].startswith("-")):
                    yield HERE
                elif word in takes_value and words:
                    yield words.popleft()
            elif option and has_module:
                yield from (option, word)
            else:
                has_module = True
                yield word


def fork_timeout(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Milliseconds in a sensible range, from an option's text; what is said of others is dramatiq's."""
    try:
        millis = float(value)
    except ValueError:
        raise click.BadParameter("worker-fork-timeout be a number.") from None
    if not millis >= SHORTEST:
        raise click.BadParameter("worker-fork-timeout too small (minimum recommended: 10ms).")
    if millis > LONGEST:
        raise click.BadParameter("worker-fork-timeout too large (maximum: 30 minutes).")
    return millis
