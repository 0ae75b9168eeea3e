"""Ctrl-C is heeded even where the exception it raises is lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Raised in a destructor or a callback of a
library it is printed and dropped, and a run would go on as if nobody had pressed anything.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """While it is entered, remembers that Ctrl-C was pressed; `heed` raises it once more if it had no effect.

    It adds to the handler that is there, and changes nothing where Ctrl-C is ignored or in another thread than the main
    one, which alone may handle signals.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._before: object = None

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if callable(self._before):
            signal.signal(signal.SIGINT, self._before)

    def heed(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed since it was entered."""
        if self._pressed:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        if callable(self._before):
            self._before(number, frame)
