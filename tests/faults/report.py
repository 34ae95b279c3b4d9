"""What a fault was promised to do, and what it did."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tests.faults.pulse import Pulse


class SkipFault(Exception):
    """This machine cannot do that; says why."""


class Finding(NamedTuple):
    promise: str
    observed: str
    kept: bool


@dataclass
class Size:
    """How hard a fault strikes.

    Attributes:
        seconds: of load around one fault; rate: its requests/s.
        times: how often a process is killed. clients: how many misbehave together.
        slack: factor on every promised time; a machine shared with others keeps no times. Beyond 1 no load asks for more
            than the server can do, and deadlines are longer too.
    """

    seconds: float = 2.0
    rate: float = 250.0
    times: int = 4
    clients: int = 20
    slack: float = 5.0
    seed: int = 0
    long: bool = False

    @property
    def patient(self):
        return self.slack > 1

    @property
    def deadline_s(self):
        return 2.0 * self.slack


@dataclass
class Report:
    """The findings of one fault."""

    fault: str
    findings: list[Finding] = field(default_factory=list)
    pulse: Pulse = field(default_factory=Pulse)

    def expect(self, promise, kept, observed=""):
        self.findings.append(Finding(promise, str(observed), bool(kept)))

    def expect_within(self, promise, seconds, limit, size):
        """A time that was promised. Where slack is granted, so is what the machine was late since the fault began, and
        as much again: a start is work, which a core that others use makes longer than any sleeper can tell.
        """
        factor, late_s = (2 * size.slack, self.pulse.late_s) if size.slack > 1 else (1.0, 0.0)
        told = f"{seconds:.3f} s, the machine late by {self.pulse.late_s:.3f} s"
        self.expect(f"{promise} ≤ {limit:g} s", seconds <= limit * factor + late_s, told)

    def expect_accounts(self, ledger, rig, *, allowed=(), unreceived=()):
        """What holds under every fault: each request one honest outcome, no other codes than `allowed`, no debts."""
        lies = ledger.lies()
        self.expect("0 crossed, double or malformed answers", not lies, "; ".join(lies[:3]) or f"{len(ledger.ok)} ok")
        self.expect("0 requests without an outcome", not ledger.unknown, [r.failure for r in ledger.unknown][:5])
        codes = dict(ledger.codes())
        beyond = {code: count for code, count in codes.items() if code not in (*allowed, *unreceived, "reset")}
        self.expect(f"no failures but {', '.join(allowed) or 'none'}", not beyond, codes)
        debts = rig.debts()
        self.expect("received = 2xx + 4xx + 5xx + client_gone, and nothing stays open", not debts, "; ".join(debts))

    @property
    def broken(self):
        return [finding for finding in self.findings if not finding.kept]

    def table(self):
        """The rows of a Markdown table."""
        return [
            f"| {self.fault} | {finding.promise} | {finding.observed} | {'kept' if finding.kept else '**BROKEN**'} |"
            for finding in self.findings
        ]
