"""How long the machine kept programs waiting while something was measured. Must not know what."""

import os
import threading
import time

BEAT_S = 0.01
PUNCTUAL_S = 0.02
"""What a quiet machine, and the threads beside these in one interpreter, may be late."""


class Pulse:
    """A thread on each core that wants to wake every 10 ms. A context manager.

    Attributes:
        late_s: by which all of them together were late, without what is usual.
    """

    def __init__(self):
        self.late_s = 0.0
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._beat, args=(core,)) for core in sorted(os.sched_getaffinity(0))]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _beat(self, core):
        os.sched_setaffinity(0, {core})  # of this thread alone
        while not self._end.is_set():
            begun = time.monotonic()
            time.sleep(BEAT_S)
            late_s = time.monotonic() - begun - BEAT_S
            if late_s > PUNCTUAL_S:
                with self._lock:
                    self.late_s += late_s
