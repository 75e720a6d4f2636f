"""What a supervisor is told to run: the command, its environment and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from plenum.adapters.nodes.leftovers import KEY
from plenum.ports.nodes import Assignment

ENGINE_PROGRAMS = ("PLENUM_VLLM", "PLENUM_SGLANG")
"""Of a node's environment: which programs its engines are."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``launch.json``.

    Parameters
    ----------
    lease
        Path of the file that says how long work may go on.
    lease_grace_s
        Grace once the lease is lost: others may count on the work having ended by then.
    cpus, numa
        CPUs to be bound to and NUMA nodes (as the host counts) whose memory to prefer; empty: any.
    own_cpus
        Whether nobody else is to be bound to those CPUs.
    memory_bytes
        Limit; 0: none.
    cgroup
        Folder of the control group to make; empty: none.
    rlimit
        Whether memory may be limited by rlimit where there is no control group. Not with GPUs: what their driver maps into a
        process would count too.
    notify
        Whether it says itself when it is ready (see notices.py).
    port
        That it was given to listen on; 0: none.
    """

    run: str
    key: str
    job: str
    slot: str
    attempt: int
    command: tuple[str, ...]
    env: dict[str, str]
    working_dir: str
    grace_s: float
    lease: str
    lease_grace_s: float
    nice: int = 0
    cpus: tuple[int, ...] = ()
    own_cpus: bool = False
    numa: tuple[int, ...] = ()
    memory_bytes: int = 0
    cgroup: str = ""
    rlimit: bool = True
    notify: bool = False
    port: int = 0
    oom_score_adj: int = 0
    log_file_bytes: int
    log_files: int


def base_environment() -> dict[str, str]:
    """Return what a process gets of the driver's own environment: where programs are, language and time zone, and no more."""
    env = {"PATH": os.environ.get("PATH", DEFAULT_PATH), "LANG": os.environ.get("LANG", "C.UTF-8")}
    return env | ({"TZ": os.environ["TZ"]} if "TZ" in os.environ else {})


def environment(
    assignment: Assignment, base: Mapping[str, str], key: str, *, home: str, checkpoints: str
) -> dict[str, str]:
    """Return the whole environment of a run; later ones win: base, what suits the plan, the job's own, what the plan decides.

    Parameters
    ----------
    key
        Mark of all processes of the run.
    home, checkpoints
        Its working folder, and the folder that all replicas of the job share.
    """
    a = assignment
    threads = {"OMP_NUM_THREADS": str(max(a.cpu_milli // 1000, 1))} if a.cpu_milli else {}
    fixed = {
        # The order in which the driver of the GPUs counts; CUDA's own default counts by speed.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, a.gpus)),
        "PLENUM_JOB": a.job,
        "PLENUM_TENANT": a.tenant,
        "PLENUM_RUN": a.run,
        "PLENUM_SLOT": a.slot,
        "PLENUM_ROLE": a.role,
        "PLENUM_ATTEMPT": str(a.attempt),
        "PLENUM_NODE": a.node,
        "PLENUM_CHECKPOINT_DIR": checkpoints,
        KEY: key,
    }
    if len(a.trace) == 32:
        fixed["TRACEPARENT"] = f"00-{a.trace}-{a.trace[:16]}-01"
    return {**base, "HOME": home, **threads, **dict(a.process.env), **fixed, **rendezvous(a)}


def rendezvous(assignment: Assignment) -> dict[str, str]:
    """Return what tells a process its place in the gang, under the names that torchrun, Open MPI and MPICH use."""
    a = assignment
    env = {
        "RANK": a.global_rank,
        "WORLD_SIZE": a.world_size,
        "LOCAL_RANK": a.local_rank,
        "LOCAL_WORLD_SIZE": a.local_world_size,
        "GROUP_RANK": a.node_rank,
        "NODE_RANK": a.node_rank,
        "NNODES": a.nodes,
        "ROLE_NAME": a.role,
        "ROLE_RANK": a.rank,
    }
    if a.master_port:
        env |= {"MASTER_ADDR": a.master_addr, "MASTER_PORT": a.master_port}
    if a.world_size > 1:
        # Alone these would make some libraries look for an mpirun that is not there.
        env |= {
            "OMPI_COMM_WORLD_RANK": a.global_rank,
            "OMPI_COMM_WORLD_SIZE": a.world_size,
            "OMPI_COMM_WORLD_LOCAL_RANK": a.local_rank,
            "OMPI_COMM_WORLD_LOCAL_SIZE": a.local_world_size,
            "PMI_RANK": a.global_rank,
            "PMI_SIZE": a.world_size,
        }
    return {name: str(value) for name, value in env.items()}
