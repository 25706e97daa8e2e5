"""SIGINT and SIGTERM: obeyed at once while there is nothing to save, noted while runs train.

It loads nothing heavy, so that `run` can listen before it loads what is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def obeyed_at_once() -> Iterator[None]:
    """While this is open, SIGTERM ends what is being done as SIGINT does, by a `KeyboardInterrupt`: for all that is
    whole or not there, and so has nothing to save."""

    def leave(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # as below
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """While this is open, SIGINT and SIGTERM are noted instead of obeyed; a second SIGINT is obeyed."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    # Only the main thread may; elsewhere (a notebook's helper thread) signals stay as they are.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
