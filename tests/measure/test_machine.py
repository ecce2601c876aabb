"""Which machine a measurement is valid for."""

from __future__ import annotations

import dataclasses

from lepton_tvm.measure import Machine, this_machine


def test_times_on_a_gpu_are_of_that_gpu_and_its_host() -> None:
    host = dataclasses.replace(this_machine(), gpu=None)
    one, other = (dataclasses.replace(host, gpu=f"GPU {n}, driver 1") for n in "AB")
    elsewhere = dataclasses.replace(one, cpu="another CPU")
    found = {m.fingerprint_for("cuda") for m in (host, one, other, elsewhere)}
    assert len(found) == 4
    assert one.fingerprint_for("x86") == other.fingerprint_for("x86") == host.fingerprint
    assert Machine.from_json(one.to_json()).fingerprint_for("cuda") == one.fingerprint_for("cuda")
