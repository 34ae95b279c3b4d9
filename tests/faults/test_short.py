"""The short form of every fault, against the real command. `make chaos` is the long one."""

import pytest

from tests.faults.faults import FAULTS, strike
from tests.faults.report import SkipFault


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault(name, tmp_path_factory):
    try:
        report = strike(name, tmp_path_factory.mktemp("f"))
    except SkipFault as reason:
        pytest.skip(str(reason))
    assert report.findings
    assert not report.broken, "\n".join(f"{f.promise}: {f.observed}" for f in report.broken)
