"""What befalls one of several gateways, and what befalls all they have in common."""

import time
from pathlib import Path

from bench.server import wait_until
from tests.faults.server import Rig

GATEWAYS = ("gateway-0", "gateway-1")


class Several(Rig):
    """With two gateways; what is asked of one is asked of both."""

    def __init__(self, folder, *arguments, **more):
        super().__init__(folder, "--gateways", str(len(GATEWAYS)), *arguments, **more)
        self._asked = GATEWAYS[0]

    def statistics(self, gateway=None):
        return super().statistics(gateway or self._asked)

    def of_each(self, ask):
        found = []
        for self._asked in GATEWAYS:
            found.append(ask())
        return found

    def ready_pids(self, name="Mule"):
        one, other = self.of_each(lambda: super(Several, self).ready_pids(name))
        return one & other

    def debts(self, *, seconds=20.0):
        return [debt for debts in self.of_each(lambda: super(Several, self).debts(seconds=seconds)) for debt in debts]

    def pid_of(self, gateway):
        (found,) = [row["pid"] for row in self.status()["processes"] if row["id"] == gateway]
        return found


def one_gateway_killed(folder, size, report):
    """SIGKILL of one of two gateways under load, then of replicas that both use."""
    with Several(folder) as rig:
        rig.wait_replicas()
        replicas = rig.pids("replica")
        load = rig.load(size, size.rate, size.seconds)
        wait_until(lambda: load.answers(50), "some answers")
        victim, begun = rig.pid_of("gateway-1"), time.monotonic()
        rig.kill(victim)
        wait_until(lambda: not Path(f"/proc/{victim}").exists(), "its end, and that of its connections")
        gone = time.monotonic()
        rig.wait_replicas()
        report.expect_within("the other one is back, with its replicas", time.monotonic() - begun, 2.0, size)
        ledger = rig.ledger(load)
        lies = ledger.lies()
        report.expect("0 crossed, double or malformed answers", not lies, lies[:3])
        failed = [record for record in ledger.records if record.status != 200]
        wrong = [r for r in failed if r.done < begun or r.sent > gone + 0.05]
        report.expect("only connections of the killed one break, at once", not wrong, ledger.codes())
        report.expect("nobody is refused a connection", not ledger.unreceived, ledger.codes())
        report.expect("same replica pids", rig.pids("replica") == replicas)
        debts = rig.debts()
        report.expect("nothing stays open", not debts, debts)
        load = rig.load(size, size.rate, size.seconds)
        for _ in range(size.times // 2):
            victim = min(rig.ready_pids())
            rig.kill(victim)
            rig.wait_replicas(without=[victim])
        report.expect_accounts(rig.ledger(load), rig)


FAULTS = [one_gateway_killed]
