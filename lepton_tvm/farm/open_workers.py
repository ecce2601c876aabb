"""Where candidates are built and timed, by what the command line says: here, or on other machines.

Nothing of Dask, TVM's RPC or the compiler is loaded before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lepton_tvm.errors import InputError
from lepton_tvm.farm.farm import Farm
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace, LocalArtifacts
from lepton_tvm.workers.trial_requests import Builder, Runner

__all__ = ["artifacts_of", "open_builder", "open_runner"]


def open_builder(
    address: str | None = None, workers: int | None = None, *, timeout_s: float = 30.0
) -> Builder:
    """Processes of this machine (`workers` of them; default: its CPUs), or a Dask cluster.

    `address` is that of a Dask scheduler, `tcp://host:8786`; its workers are as many as they are,
    so `workers` given beside it is an InputError. Raises TrialError for a cluster that cannot be
    used.
    """
    if address is None:
        from lepton_tvm.workers.local_builder import ParallelBuilder

        return ParallelBuilder(workers, timeout_s)
    if workers is not None:
        raise InputError(f"the cluster {address} sets the number of workers: leave workers= out")
    from lepton_tvm.farm.dask_builder import DaskBuilder

    return DaskBuilder(address, timeout_s=timeout_s)


def open_runner(
    farm: Farm | None = None,
    threads: int = 1,
    *,
    timeout_s: float = 10.0,
    wait_s: float = 60.0,
    busy_s: float = 0.0,
    say: Callable[[str], None] = lambda _text: None,
) -> Runner:
    """This machine, or the devices of a farm.

    `say` is told what happens to devices. Raises DeviceError for a farm that has no such device.
    """
    if farm is None:
        from lepton_tvm.workers.local_runner import LocalRunner

        return LocalRunner(timeout_s)
    from lepton_tvm.farm.remote_runner import RpcRunner

    return RpcRunner(
        farm, threads=threads, timeout_s=timeout_s, wait_s=wait_s, busy_s=busy_s, say=say
    )


def artifacts_of(runner: Runner) -> Iterator[ArtifactPlace]:
    """Where whole artifacts run on the machine that `runner` times kernels on.

    That is each of its devices in turn, for who has no luck with the first. Raises DeviceError
    where none can be had.
    """
    from lepton_tvm.farm.remote_runner import RpcRunner

    if isinstance(runner, RpcRunner):
        yield from runner.artifacts()
    else:
        yield LocalArtifacts()
