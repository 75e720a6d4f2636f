"""This host as a node: replicas are processes, each watched over by a supervisor that outlives the driver.

Everything is in files, so that a driver may be killed at any instant and another one take over. In the folder::

    driver.lock            locked by the driver that is at work
    fence.json             the newest order seen
    shim.pyc               what supervisors run
    lease.json             until when work may go on
    runs/RUN/              a run that is known (what is in it: see shim.py; ``status.json``: see notices.py)
    old/RUN/               one that was forgotten; its output is kept for a while
    work/UID-SLOT/         working folder of a replica, over all its attempts
    checkpoints/UID/       what the replicas of a job share

Whether a supervisor lives is told by the lock it holds on its run: no process number can be mistaken for another. A run whose
lock is free was never begun (no ``state.json``: it is started now), has exited (``state.json`` says so), or has vanished.
"""

from __future__ import annotations

import fcntl
import math
import os
import py_compile
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from plenum.adapters.nodes import files, shim
from plenum.adapters.nodes.cgroups import delegated_cgroup
from plenum.adapters.nodes.cores import choose_cpus, numa_nodes
from plenum.adapters.nodes.launch import ENGINE_PROGRAMS, Launch, base_environment, environment
from plenum.adapters.nodes.leftovers import end_leftovers
from plenum.adapters.nodes.notices import STATUS, Notice
from plenum.adapters.nodes.output import STREAMS, read_output
from plenum.adapters.nodes.ports import free_port
from plenum.adapters.weights.variables import staging_variables
from plenum.model.errors import PlenumError
from plenum.ports.nodes import (
    EXITED,
    LEASE_GRACE_S,
    STARTING,
    AbsentLogsError,
    Assignment,
    Fence,
    LogChunk,
    Report,
    StaleOrderError,
)

MAX_REFUSED = 1_000
"""Runs remembered that never came to be, such as for a name that cannot be a file's."""
MAX_OLD = 1_000
"""Forgotten runs whose output is kept."""
KEEP_OLD_S = 86_400.0
STOP_ALL_MARGIN_S = 15.0
"""Time beyond the grace that the end of everything is waited for."""
_SHIM_LOCK_FD = 3


class FolderBusyError(PlenumError):
    """Another driver works in the folder."""

    code = "node.folder-busy"


class FolderError(PlenumError):
    """What has to be noted down before it is done cannot be: the disk is full, or the folder is gone. Nothing was done."""

    code = "node.folder-unwritable"


class LocalDriver:
    """A :class:`~plenum.ports.nodes.NodeDriver` that runs processes on this host.

    Parameters
    ----------
    folder
        Where everything is kept; on a local file system. One driver at a time.
    node
        Name of the node that this host is.
    checkpoint_root
        Where jobs keep checkpoints, shared with other hosts where gangs span them; None: in the folder.
    environment
        What processes get besides what their jobs say; None: PATH, LANG and TZ as the driver has them.
    cgroup
        Control group (v2) in which groups with memory limits may be made; empty: none. None: one that was delegated, if any.
    log_file_bytes, log_files
        How much of each stream is kept: the newest files of at most that size.
    oom_score_adj
        Added to the badness of runs when the host is out of memory, so that they go before the driver; 0: nothing.
    clock_s
        Seconds since boot, suspension included, as supervisors count them.

    Raises
    ------
    FolderBusyError
        Another driver works in the folder.
    """

    def __init__(
        self,
        folder: Path,
        node: str,
        *,
        checkpoint_root: Path | None = None,
        environment: Mapping[str, str] | None = None,
        cgroup: str | None = None,
        log_file_bytes: int = 8 << 20,
        log_files: int = 4,
        oom_score_adj: int = 500,
        clock_s: Callable[[], float] = shim.elapsed_s,
    ) -> None:
        self._node = node
        self._folder = files.make_folder(folder.absolute())
        self._checkpoint_root = (checkpoint_root or self._folder / "checkpoints").absolute()
        self._base_env = base_environment() if environment is None else dict(environment)
        self._cgroup = delegated_cgroup() if cgroup is None else cgroup
        self._log_limits = (max(log_file_bytes, 1), max(log_files, 1))
        self._oom_score_adj = oom_score_adj
        self._clock_s = clock_s
        self._boot = shim.boot_id()
        self._numa = numa_nodes()
        self._lock = threading.Lock()
        self._spawned: list[int] = []
        self._refused: dict[str, Report] = {}
        self._reports: dict[str, Report] = {}
        self._live: dict[str, _Run] = {}
        self._seen: tuple[Report, ...] | None = None
        self._driver_lock_fd = _take_folder(self._folder)
        # Compiled once: to compile it takes as long as the rest of a supervisor's start.
        self._shim = py_compile.compile(str(shim.__file__), cfile=str(self._folder / "shim.pyc"), doraise=True)
        self._runs_folder = files.make_folder(self._folder / "runs")
        self._old_folder = files.make_folder(self._folder / "old")
        self._fence = self._read_fence()
        self._old = self._read_old()
        self._adopt()

    def nodes(self) -> tuple[str, ...]:
        """Return the node's name."""
        return (self._node,)

    def start(self, assignment: Assignment, fence: Fence) -> None:
        """Start a run; see the port. Returns when the order is durable and a supervisor has been started."""
        with self._lock, _writing(self._folder):
            self._admit(fence)
            run = assignment.run
            if run in self._reports or run in self._refused or run in self._old:
                return
            self._seen = None
            problem = self._problem(assignment)
            if problem:
                self._refuse(run, problem)
                return
            try:
                known = self._write_down(assignment)
            except OSError as error:
                self._refuse(run, f"the node cannot note down the run: {error}")
                return
            self._know(known)
            self._look(known)

    def stop(self, run: str, grace_s: float, fence: Fence, *, cause: str = "stopped") -> None:
        """Ask a run to end; see the port."""
        with self._lock, _writing(self._folder):
            self._admit(fence)
            known = self._live.get(run)
            if known is not None:
                self._ask_to_end(known, grace_s, cause)

    def forget(self, runs: Sequence[str], fence: Fence) -> None:
        """Drop what is known of exited runs; see the port. Their output is kept as ``MAX_OLD`` and ``KEEP_OLD_S`` say."""
        with self._lock, _writing(self._folder):
            self._admit(fence)
            for run in runs:
                self._refused.pop(run, None)
                if run in self._reports and run not in self._live:
                    del self._reports[run]
                    os.replace(self._runs_folder / run, self._old_folder / run)
                    os.utime(self._old_folder / run)
                    self._old[run] = time.time()
            self._seen = None
            self._drop_old()

    def renew(self, until_s: float) -> None:
        """Note for all supervisors that work may go on for ``until_s`` more seconds; without any renewal it may go on for ever."""
        path = self._folder / "lease.json"
        with self._lock, _writing(self._folder):
            if math.isinf(until_s):
                path.unlink(missing_ok=True)
            else:
                lease = {"boot": self._boot, "until_s": self._clock_s() + until_s}
                files.replace(path, msgspec.json.encode(lease), durably=False)

    def observe(self) -> tuple[Report, ...]:
        """Return a report on every run; see the port. Costs only those that have not exited."""
        with self._lock:
            return self._observe()

    def logs(self, run: str, stream: str, offset: int, limit: int) -> LogChunk:
        """Return a piece of what a run wrote; see the port."""
        with self._lock:
            if stream not in STREAMS or not (run in self._reports or run in self._old):
                raise AbsentLogsError(run, stream)
            known = self._live.get(run)
            if known is not None:
                self._look(known)
            folder = (self._old_folder if run in self._old else self._runs_folder) / run
            return read_output(folder, stream, offset, limit, exited=run not in self._live)

    def stop_all(self, grace_s: float, *, cause: str = "stopped") -> bool:
        """End everything, as when the host is taken out of service, and wait for it.

        Returns
        -------
        bool
            Whether nothing is left; False where processes could not be ended in ``STOP_ALL_MARGIN_S`` beyond the grace.
        """
        with self._lock:
            for run in self._live.values():
                self._ask_to_end(run, grace_s, cause)
        give_up_s = time.monotonic() + grace_s + STOP_ALL_MARGIN_S
        while True:
            self.observe()
            if not self._live or time.monotonic() > give_up_s:
                return not self._live
            time.sleep(0.02)

    def close(self) -> None:
        """Let go of the folder; what runs goes on."""
        with self._lock:
            self._reap(wait=True)
            if self._driver_lock_fd >= 0:
                os.close(self._driver_lock_fd)
                self._driver_lock_fd = -1

    # -- orders ----------------------------------------------------------------------------------------------------------

    def _admit(self, fence: Fence) -> None:
        """Refuse old orders; note down a newer one before it is carried out."""
        if fence < self._fence:
            raise StaleOrderError(f"the order ({fence}) is older than one that was carried out before ({self._fence})")
        if fence > self._fence:
            files.replace(self._folder / "fence.json", msgspec.json.encode(fence), durably=True)
            self._fence = fence

    def _read_fence(self) -> Fence:
        try:
            return msgspec.json.decode((self._folder / "fence.json").read_bytes(), type=Fence)
        except FileNotFoundError:
            return Fence()

    def _problem(self, assignment: Assignment) -> str:
        """Return why a run cannot be started here; empty: it can."""
        if not files.is_safe_name(assignment.run):
            return f"the run's name {assignment.run!r} cannot be a file's; use letters, digits, '-', '_' and '.'"
        if not files.is_safe_name(assignment.slot):
            return f"the slot's name {assignment.slot!r} cannot be a file's; use letters, digits, '-', '_' and '.'"
        if assignment.node != self._node:
            return f"this is node {self._node!r}, not {assignment.node!r}"
        if assignment.process.imitated:
            return "this node runs commands; what is simulated belongs on simulated nodes"
        return ""

    def _refuse(self, run: str, message: str) -> None:
        while len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[run] = Report(
            run=run, phase=EXITED, exit_code=-1, cause="start-failed", message=message, ended_at=time.time()
        )

    def _write_down(self, assignment: Assignment) -> _Run:
        """Note down a run, whole and durable, under its name; from then on it will be started, by whichever driver."""
        beside = self._folder / "starting"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        os.mkfifo(beside / "wake", 0o600)
        (beside / "lock").touch(0o600)
        launch = self._launch(assignment)
        files.replace(beside / "launch.json", msgspec.json.encode(launch), durably=True)
        run = _Run(self._runs_folder / assignment.run, launch)
        os.rename(beside, run.folder)
        files.sync_folder(self._runs_folder)
        return run

    def _launch(self, assignment: Assignment) -> Launch:
        home = files.make_folder(self._folder / "work" / f"{assignment.uid}-{assignment.slot}")
        checkpoints = files.make_folder(self._checkpoint_root / str(assignment.uid))
        numa = [self._numa[i] for i in assignment.numa if i < len(self._numa)]
        taken = {cpu for run in self._live.values() if run.launch.own_cpus for cpu in run.launch.cpus}
        cpus = choose_cpus(numa, assignment.cpu_milli, taken)
        key = os.urandom(16).hex()
        notified: dict[str, str] = {}
        port = 0
        if assignment.process.notify:
            address = assignment.address or assignment.master_addr
            port = free_port(address, {known.launch.port for known in self._live.values()})
            # Of all that runs here only what the control plane itself starts says when it is ready; it stages weights.
            notified = {
                **{name: os.environ[name] for name in ENGINE_PROGRAMS if name in os.environ},
                **staging_variables(os.environ),
                "PLENUM_CACHE": str(self._folder / "cache"),
                "PLENUM_GRACE_S": str(max(assignment.process.grace_s - 2.0, assignment.process.grace_s / 2)),
                "PLENUM_STATUS_FILE": str(self._runs_folder / assignment.run / STATUS),
                "PLENUM_HOST": address,
                "PLENUM_PORT": str(port),
                "PLENUM_ENGINE_KEY": assignment.secret,
                "PLENUM_WEIGHTS_DIGEST": assignment.weights_digest,
            }
        return Launch(
            run=assignment.run,
            key=key,
            job=assignment.job,
            slot=assignment.slot,
            attempt=assignment.attempt,
            command=assignment.process.command,
            env=environment(assignment, self._base_env, key, home=str(home), checkpoints=str(checkpoints)) | notified,
            notify=assignment.process.notify,
            port=port,
            working_dir=str(home / assignment.process.working_dir),
            grace_s=assignment.process.grace_s,
            lease=str(self._folder / "lease.json"),
            lease_grace_s=min(assignment.process.grace_s, LEASE_GRACE_S),
            nice=assignment.process.nice,
            cpus=cpus,
            own_cpus=0 < len(cpus) == assignment.cpu_milli // 1000 and not taken & set(cpus),
            numa=tuple(node.number for node in numa),
            memory_bytes=assignment.memory_bytes,
            cgroup=f"{self._cgroup}/run-{assignment.run}" if self._cgroup and assignment.memory_bytes else "",
            oom_score_adj=self._oom_score_adj,
            rlimit=not assignment.gpus,
            log_file_bytes=self._log_limits[0],
            log_files=self._log_limits[1],
        )

    def _ask_to_end(self, run: _Run, grace_s: float, cause: str) -> None:
        """Leave an order to end for the supervisor; one that was left before keeps its cause and can only be hastened."""
        order = _Order(cause=cause, kill_at_s=self._clock_s() + max(grace_s, 0.0))
        if run.order is not None:
            if run.order.kill_at_s <= order.kill_at_s:
                return
            order = msgspec.structs.replace(order, cause=run.order.cause)
        files.replace(run.folder / "stop.json", msgspec.json.encode(order), durably=False)
        run.order = order
        with suppress(OSError):  # not listening yet or no more: it looks for itself when it does
            fd = os.open(run.folder / "wake", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)

    # -- what is known ---------------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Find the runs of earlier drivers."""
        for folder in sorted(self._runs_folder.iterdir()):
            try:
                launch = msgspec.json.decode((folder / "launch.json").read_bytes(), type=Launch)
            except (OSError, msgspec.DecodeError):
                continue  # not ours: runs appear whole
            run = _Run(folder, launch)
            with suppress(OSError, msgspec.DecodeError):
                run.order = msgspec.json.decode((folder / "stop.json").read_bytes(), type=_Order)
            self._know(run)
            self._look(run)

    def _know(self, run: _Run) -> None:
        self._live[run.name] = run
        self._reports[run.name] = Report(run=run.name, phase=STARTING)

    def _observe(self) -> tuple[Report, ...]:
        self._reap(wait=False)
        for run in list(self._live.values()):
            self._look(run)
        if self._seen is None:
            self._seen = (*self._reports.values(), *self._refused.values())
        return self._seen

    def _look(self, run: _Run) -> None:
        """Bring what is known of a run up to date; where its supervisor is gone, see to what it has left undone."""
        self._read(run)
        if run.name not in self._live:
            return
        # What cannot be concluded now, as on a full disk, is left for the next look.
        with suppress(OSError), _Lock(run.folder / "lock") as lock:
            if lock.taken:
                self._read(run, afresh=True)
                if run.name in self._live:
                    self._take_over(run, lock)

    def _read(self, run: _Run, *, afresh: bool = False) -> None:
        state = run.read(afresh=afresh)
        news = run.notice is not None and run.notice.look()
        state = state or (run.state if news else None)
        if state is None:
            return
        report = state.report(run.name)
        self._reports[run.name] = report if run.notice is None else run.notice.told(report)
        self._seen = None
        if state.phase == EXITED:
            del self._live[run.name]

    def _take_over(self, run: _Run, lock: _Lock) -> None:
        """Conclude what has no supervisor; the lock is held."""
        if run.state is not None:
            self._conclude(run, "vanished", self._end_leftovers(run, run.state))
        elif run.spawned:
            self._conclude(run, "start-failed", "its supervisor ended before it had begun")
        else:
            try:
                self._spawn(run, lock)
            except OSError as error:
                self._conclude(run, "start-failed", f"its supervisor cannot be started: {error}")

    def _spawn(self, run: _Run, lock: _Lock) -> None:
        """Start the supervisor and hand it the lock: there is no instant at which nobody holds it."""
        err = str(run.folder / "shim.err")
        lock_fd = fcntl.fcntl(lock.fd, fcntl.F_DUPFD_CLOEXEC, _SHIM_LOCK_FD + 1)  # out of the way of those opened here
        actions = (
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, err, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600),
            (os.POSIX_SPAWN_DUP2, lock_fd, _SHIM_LOCK_FD),
        )
        args = (sys.executable, "-I", "-S", "-B", "-X", "utf8", str(self._shim), str(run.folder), str(_SHIM_LOCK_FD))
        env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        try:
            self._spawned.append(os.posix_spawn(sys.executable, args, env, file_actions=actions, setsid=True))
        finally:
            os.close(lock_fd)
        run.spawned = True

    def _end_leftovers(self, run: _Run, state: _State) -> str:
        """Kill the processes of a run that has lost its supervisor; returns what happened, in a sentence."""
        if state.boot != self._boot:
            return "the host was restarted while it ran"
        if not end_leftovers(run.launch.key, state.pid, state.pid_start):
            return "its supervisor was killed, and some of its processes could not be ended"
        return "its supervisor was killed; what it had started was ended"

    def _conclude(self, run: _Run, cause: str, message: str) -> None:
        state = run.state or _State(boot=self._boot)
        state = msgspec.structs.replace(
            state, phase=EXITED, exit_code=-1, cause=cause, message=message, ended_at=time.time()
        )
        files.replace(run.folder / "state.json", msgspec.json.encode(state), durably=True)
        self._read(run)

    def _reap(self, *, wait: bool) -> None:
        """Reap what started the supervisors: it ends at once, leaving them to themselves."""
        left: list[int] = []
        for pid in self._spawned:
            with suppress(ChildProcessError):
                if os.waitpid(pid, 0 if wait else os.WNOHANG) == (0, 0):
                    left.append(pid)
        self._spawned = left

    # -- what was forgotten ----------------------------------------------------------------------------------------------

    def _read_old(self) -> dict[str, float]:
        """Return forgotten runs and when they were forgotten (seconds since the epoch), oldest first."""
        found = [(path.stat().st_mtime, path.name) for path in self._old_folder.iterdir()]
        return {name: at for at, name in sorted(found)}

    def _drop_old(self) -> None:
        oldest = time.time() - KEEP_OLD_S
        while self._old:
            run, forgotten_at = next(iter(self._old.items()))
            if len(self._old) <= MAX_OLD and forgotten_at >= oldest:
                return
            shutil.rmtree(self._old_folder / run, ignore_errors=True)
            del self._old[run]


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``state.json``, as far as the driver minds."""

    phase: str = STARTING
    boot: str
    shim_pid: int = 0
    shim_start: int = 0
    pid: int = 0
    pid_start: int = 0
    exit_code: int | None = None
    cause: str = ""
    message: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    notes: tuple[str, ...] = ()

    def report(self, run: str) -> Report:
        exited = self.phase == EXITED
        return Report(
            run=run,
            phase=self.phase,
            exit_code=self.exit_code,
            cause=self.cause if exited else "",
            message=self.message if exited else "",
            started_at=self.started_at,
            ended_at=self.ended_at,
            pid=self.pid,
        )


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``stop.json``: why, and when it is ended by force (seconds since boot)."""

    cause: str
    kill_at_s: float


class _Run:
    """A run that has not been seen to exit."""

    __slots__ = ("_stamp", "folder", "launch", "name", "notice", "order", "spawned", "state")

    def __init__(self, folder: Path, launch: Launch) -> None:
        self.folder, self.launch = folder, launch
        self.name = folder.name
        self.state: _State | None = None
        self.spawned = False
        self.order: _Order | None = None
        self.notice = Notice(folder, port=launch.port) if launch.notify else None
        self._stamp = (0, 0)

    def read(self, *, afresh: bool = False) -> _State | None:
        """Return the state if it looks written since the last call, or in any case.

        Looks may deceive: file times are coarse, and an inode can come back. Before anything is concluded, it is read afresh.
        """
        path = self.folder / "state.json"
        try:
            stat = os.stat(path, follow_symlinks=False)
            if not afresh and (stat.st_ino, stat.st_mtime_ns) == self._stamp:
                return None
            self.state = msgspec.json.decode(path.read_bytes(), type=_State)
        except FileNotFoundError:
            return None
        self._stamp = (stat.st_ino, stat.st_mtime_ns)
        return self.state


class _Lock:
    """An attempt at a run's lock; it fails while the supervisor lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = -1
        self.taken = False

    def __enter__(self) -> _Lock:
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.taken = True
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(f"the node cannot note down an order in {folder}: {error.strerror or error}") from error


def _take_folder(folder: Path) -> int:
    fd = os.open(folder / "driver.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FolderBusyError(f"another driver is at work in {folder}; give each a folder of its own") from None
    return fd
