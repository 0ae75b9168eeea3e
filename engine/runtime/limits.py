"""The limits file of a live run, looked at on every boundary."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from typing import Any

from engine.errors import BadInput
from engine.messages import Reloaded
from engine.runtime.plan import LimitsFile

MOST_BYTES = 4 * 1024**2
_SETTLED_NS = 2 * 10**9
"""A file that was written so recently can be written again without a change of its times, which are coarse."""


class Lookout:
    """Looks whether a limits file changed, and reads it where it did.

    While the file's times, size and identity stay as they are it is not opened: a look costs a `stat`.
    """

    def __init__(self, file: LimitsFile) -> None:
        self._file = file
        self._mark: tuple[int, ...] | None = None
        self._text = ""  # what the file held when it had this mark

    def look(self, known: Reloaded | None) -> Reloaded | None:
        """What the file says, None where that is `known`."""
        try:
            document = self._document()
        except BadInput as error:
            found = Reloaded(None, None, str(error))
            return None if known is not None and found.told() == known.told() else found
        if known is not None and document == known.document:
            return None
        return self._reading(document)

    def recall(self, told: Mapping[str, Any] | None) -> Reloaded | None:
        """What the file said when a round was recorded, whatever it says now."""
        if told is None:
            return None
        if told["why"] is not None:
            return Reloaded(told["document"], None, told["why"])
        return self._reading(told["document"])

    def _reading(self, document: str) -> Reloaded:
        try:
            return Reloaded(document, self._file.read(document))
        except BadInput as error:
            return Reloaded(document, None, str(error))

    def _document(self) -> str:
        """The file's text; a BadInput, which names the file without its folder, where there is none."""
        path = self._file.path
        try:
            status = path.stat()
            mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if mark == self._mark:
                return self._text
            _check(path.name, status)
            self._text = path.read_bytes().decode("utf-8")
        except BadInput:
            raise
        except FileNotFoundError:
            raise BadInput(f"{path.name} does not exist: put it back") from None
        except UnicodeDecodeError:
            raise BadInput(f"{path.name} is not UTF-8 text: save it as UTF-8") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise BadInput(f"{path.name} cannot be read ({reason}): let the run's owner read it") from None
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
        self._mark = mark if settled else None
        return self._text


def _check(name: str, status: os.stat_result) -> None:
    """Refuse what would keep the run waiting: a pipe, or more text than limits take."""
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{name} must be a file: put one in its place")
    if status.st_size > MOST_BYTES:
        raise BadInput(f"{name} (={status.st_size} bytes) must hold at most {MOST_BYTES} bytes: shorten it")
