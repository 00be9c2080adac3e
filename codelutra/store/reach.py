"""Asks a shared place that may be away. After a failed question it is left alone for a pause, so a run does not wait for it
once for every artifact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from codelutra.store.place import PlaceError

T = TypeVar("T")
_LONGEST = 30.0  # seconds between two tries


class Reach:
    """Passes questions on. After one that was not answered the place is left alone for a pause, which doubles up to half a
    minute and is no shorter than the question took; that it is away, and that it is back, is told once each."""

    def __init__(self, address: str, tell: Callable[[str], None], first_pause: float = 1.0) -> None:
        self._address, self._tell, self._first = address, tell, first_pause
        self._lock = threading.Lock()
        self._error: PlaceError | None = None
        self._told: str | None = None  # of an error that waiting does not help, or that it is away
        self._pause = self._again = 0.0

    @property
    def wait(self) -> float:
        """Seconds until it is asked again."""
        return max(0.0, self._again - time.monotonic())

    @property
    def away(self) -> bool:
        """Whether the last question was not answered."""
        return self._error is not None

    @property
    def refused(self) -> bool:
        """Whether the last question was answered by an error that waiting does not help."""
        return self._error is not None and self._error.lasting

    def ask(self, question: Callable[[], T]) -> T:
        """What `question` returns. Raises PlaceError where it does, and in the pause after that."""
        with self._lock:
            if self._error and self.wait:
                raise PlaceError(str(self._error), lasting=self._error.lasting)
        began = time.monotonic()
        try:
            answer = question()
        except PlaceError as e:
            self._failed(e, time.monotonic() - began)
            raise
        self._answered()
        return answer

    def _failed(self, error: PlaceError, took: float) -> None:
        with self._lock:
            self._error = error
            self._pause = min(_LONGEST, 2 * self._pause or self._first)
            self._again = time.monotonic() + max(self._pause, took)  # work goes on at least half of the time
            told, self._told = self._told, str(error) if error.lasting else "away"
        if told != self._told:
            self._tell(
                f"the shared store {self._address}: {error}. Work goes on here; what is finished is published when it "
                + ("can be" if error.lasting else "answers again")
            )

    def _answered(self) -> None:
        with self._lock:
            back = self._told
            self._error = self._told = None
            self._pause = self._again = 0.0
        if back:
            self._tell(f"the shared store {self._address} answers again")
