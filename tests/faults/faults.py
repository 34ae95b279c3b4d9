"""Every fault of docs/behaviour.md §2 that exists so far, by name. Each is `fault(folder, size, report)`.

Not here: a corrupt reply (no model can send one; tests/gateway does it with a scripted replica), an OOM kill (the
kernel chooses the victim; tests/supervise), a jump of the clock (nothing but tests/tidy can prove that no wall clock
is read).
"""

from tests.faults import client_faults, replica_faults, several_faults, steering_faults, tree_faults
from tests.faults.report import Report, Size, SkipFault

FAULTS = {
    fault.__name__: fault
    for room in (replica_faults, several_faults, steering_faults, tree_faults, client_faults)
    for fault in room.FAULTS
}


def strike(name, folder, size=None):
    """Commit one fault in `folder`; what came of it. Raises SkipFault where this machine cannot."""
    report = Report(name)
    try:
        with report.pulse:
            FAULTS[name](folder, size or Size(), report)
    except SkipFault:
        raise
    except (AssertionError, TimeoutError, RuntimeError, OSError, ValueError, KeyError) as error:
        report.expect("the fault can be told to its end", False, f"{type(error).__name__}: {error}")
        error.add_note(f"so far: {report.findings}")
        if not isinstance(error, TimeoutError):
            raise
    return report
