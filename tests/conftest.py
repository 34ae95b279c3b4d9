"""For all tests: what the programs that they start inherit does not depend on how the tests were started."""

import signal

# `nohup` and a shell's `&` have these ignored, which passes to children. A function that does nothing does not.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda _number, _frame: None)
