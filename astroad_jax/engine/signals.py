"""What asks a process to stop, as a flag that its work looks at."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOTE = b"\nstopping as soon as nothing is lost by it; once more stops at once\n"


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one acts as usual."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # signal handlers belong to the main thread
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        del frame
        flag.set()
        signal.signal(number, before[number])
        os.write(2, NOTE)  # printing is not allowed within a signal

    for number in before:
        signal.signal(number, handle)
    try:
        yield flag
    finally:
        for number, old in before.items():
            signal.signal(number, old)
