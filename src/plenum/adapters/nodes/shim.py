"""Watches over one run: starts its process, keeps its output, ends it when told to, and writes down how it ended.

Run as a script, with nothing but the standard library, so that it starts fast and stays small::

    python -I -S -B shim.py FOLDER LOCK_FD

It owes nothing to whoever started it: orders come in files, answers go into files, and it goes on when its driver is gone.

=================  ==========  ===============================================================================================
in ``FOLDER``      written by  what
=================  ==========  ===============================================================================================
``launch.json``    driver      what to run and how; there before the shim is started, and never changed
``lock``           both        locked (flock) by the shim while it lives; locked by the driver until then, and handed over
``stop.json``      driver      an order to end: ``cause``, and ``kill_at_s``, when it is ended by force
``wake``           driver      a FIFO; a byte in it says that there is something new to read
``state.json``     shim        how far it is. Once it exists the process may have been started, and is never started again
``stdout.OFFSET``  shim        output from that offset on, as ``stderr.OFFSET``; the oldest go when there are too many
=================  ==========  ===============================================================================================

The lease is a file that all runs of a driver share. Seconds (``…_s``) are of CLOCK_BOOTTIME unless they say ``…_at``.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time

CHECK_S = 1.0
"""Longest between two looks at the orders and the lease."""
FINISH_S = 10.0
"""Longest that processes left over are waited for once they have been killed."""
READ_BYTES = 1 << 16
SAVE_ATTEMPTS = 3_600
"""How often, once a second, writing down the end is tried while the disk is full."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MPOL_PREFERRED, MPOL_PREFERRED_MANY = 1, 5
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""Number of the system call."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def main(folder, lock_fd):
    """Run what the folder describes, unless that was begun before.

    Parameters
    ----------
    folder
        The run's own.
    lock_fd
        An open file descriptor of its lock, locked already.
    """
    os.set_inheritable(lock_fd, False)
    os.closerange(lock_fd + 1, 1 << 20)
    os.umask(0o077)
    os.chdir(folder)
    if not os.path.exists("state.json"):
        with open("launch.json", encoding="utf-8") as file:
            _Watch(json.load(file)).run()


def boot_id():
    """Return what tells one start of the machine from another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_ticks(pid):
    """Return when a process was started, in clock ticks since boot: with the pid, it names a process for good."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def elapsed_s():
    """Return seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Watch:
    """The life of one run, from beginning to end."""

    def __init__(self, launch):
        self.launch = launch
        self.state = {
            "phase": "starting",
            "boot": boot_id(),
            "shim_pid": os.getpid(),
            "shim_start": start_ticks(os.getpid()),
            "pid": 0,
            "pid_start": 0,
            "exit_code": None,
            "cause": "",
            "message": "",
            "started_at": 0.0,
            "ended_at": 0.0,
            "notes": [],
        }
        self.pid = 0
        self.exit_code = None
        self.kill_at_s = float("inf")
        self.ending = False
        self.killed = False
        self.asked_by_signal = self.lease_lost = False
        self.streams = {}
        self.poll = select.poll()
        self.look_at_s = 0.0

    def run(self):
        """Begin, watch, finish."""
        self._save(durably=True)
        self._listen()
        self._heed()
        if self.ending:  # ended before it began
            self._end(128 + signal.SIGTERM)
        elif self._launch():
            while not self._main_has_exited():
                self._wait()
                self._heed()
            self._finish()

    # -- what it listens to ----------------------------------------------------------------------------------------------

    def _listen(self):
        _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.wake_fd = os.open("wake", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.signal_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for fd in (self.wake_fd, self.signal_fd):
            self.poll.register(fd, select.POLLIN)

    def _on_sigterm(self, *_):
        self.asked_by_signal = True

    def _wait(self):
        """Wait for output, an order, a signal, or until it is time to look at something."""
        timeout_s = CHECK_S
        if self.ending and not self.killed:
            timeout_s = min(timeout_s, max(self.kill_at_s - elapsed_s(), 0.0))
        for fd, _ in self.poll.poll(timeout_s * 1000 + 1):
            if fd in self.streams:
                self._pump(fd)
            else:
                _read(fd)
                self.look_at_s = 0.0

    def _pump(self, fd):
        """Keep what a stream holds; returns whether there was anything."""
        data = _read(fd)
        if data:
            self.streams[fd].write(data)
        elif data is not None:
            self.poll.unregister(fd)
            self.streams.pop(fd).close()
            os.close(fd)
        return bool(data)

    def _heed(self):
        """See whether it has to end, and push what is to end."""
        if elapsed_s() >= self.look_at_s:
            self.look_at_s = elapsed_s() + CHECK_S
            self._look()
        if self.pid and elapsed_s() >= self.kill_at_s:
            self.killed = True
            _signal_group(self.pid, signal.SIGKILL)

    def _look(self):
        order = _load("stop.json")
        if order is not None:
            self._ask_to_end(order["cause"], order["kill_at_s"])
        if self.asked_by_signal:
            self.asked_by_signal = False
            self.state["message"] = "its supervisor was asked to end, as at a shutdown"
            self._ask_to_end("vanished", elapsed_s() + self.launch["grace_s"])
        if self._lease_is_lost():
            self._ask_to_end("lease-lost", elapsed_s() + self.launch["lease_grace_s"])

    def _lease_is_lost(self):
        if self.lease_lost:
            return False
        lease = _load(self.launch["lease"])
        if lease is not None:  # one of another boot is of before the host went down: others may have its work since
            self.lease_lost = lease["boot"] != self.state["boot"] or elapsed_s() > lease["until_s"]
        return self.lease_lost

    def _ask_to_end(self, cause, kill_at_s):
        self.kill_at_s = min(self.kill_at_s, kill_at_s)
        if not self.ending:
            self.ending = True
            self.state["cause"] = cause
            if self.pid:
                _signal_group(self.pid, signal.SIGTERM)

    # -- the process -----------------------------------------------------------------------------------------------------

    def _launch(self):
        """Start the process; returns whether that worked."""
        limits = (self.launch["log_file_bytes"], self.launch["log_files"])
        pipes = {name: os.pipe2(os.O_CLOEXEC) for name in ("stdout", "stderr")}
        told_fd, tell_fd = os.pipe2(os.O_CLOEXEC)
        _make_cgroup(self.launch, self.state["notes"])
        shim_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(self.launch, shim_pid, pipes["stdout"][1], pipes["stderr"][1], tell_fd)
        os.close(tell_fd)
        for name, (read_fd, write_fd) in pipes.items():
            os.close(write_fd)
            os.set_blocking(read_fd, False)
            self.streams[read_fd] = _Rotating(name, *limits)
            self.poll.register(read_fd, select.POLLIN)
        told = _read_all(told_fd).decode(errors="replace").splitlines()
        os.close(told_fd)
        self.state["notes"] += [line[1:] for line in told if line.startswith("+")]
        errors = [line[1:] for line in told if line.startswith("-")]
        if errors:
            os.waitpid(self.pid, 0)
            self.state.update(cause="start-failed", message=errors[0])
            self._end(-1)
            return False
        self.state.update(phase="running", pid=self.pid, pid_start=start_ticks(self.pid), started_at=time.time())
        self._save(durably=False)
        return True

    def _main_has_exited(self):
        """Reap what has ended; the main process stays a zombie until its group is killed, so that its number stays its own."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
            if ended is None:
                return False
            if ended.si_pid == self.pid:
                return True
            os.waitpid(ended.si_pid, 0)

    def _finish(self):
        _signal_group(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if not self._reap_leftovers():
            self.state["notes"].append("processes it left behind could not be ended")
        for fd in list(self.streams):
            while fd in self.streams and self._pump(fd):
                pass
        if _clear_cgroup(self.launch) and not self.ending:
            limit = self.launch["memory_bytes"]
            self.state.update(cause="out-of-memory", message=f"it used more than its {limit:,} bytes of memory")
        self._end(code if code >= 0 else 128 - code)

    def _reap_leftovers(self):
        """Kill and reap all descendants, daemons among them: orphans become children of this process. Returns whether none is left."""
        give_up_s = elapsed_s() + FINISH_S
        while elapsed_s() < give_up_s:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                for child in _children():
                    _signal(child, signal.SIGKILL)
                select.select([self.signal_fd], [], [], 0.05)
                _read(self.signal_fd)
        return False

    def _end(self, exit_code):
        self.state.update(phase="exited", exit_code=exit_code, ended_at=time.time())
        for _ in range(SAVE_ATTEMPTS):
            try:
                return self._save(durably=True)
            except OSError:
                time.sleep(1)
        return None

    def _save(self, *, durably):
        """Replace the state as a whole, so that no reader sees half of it."""
        with open("state.json.new", "w", encoding="utf-8") as file:
            json.dump(self.state, file)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        os.replace("state.json.new", "state.json")
        if durably:
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(folder)
            os.close(folder)


class _Rotating:
    """Files that hold the newest part of a stream; each is named after the offset of its first byte."""

    def __init__(self, name, file_bytes, files):
        self.name, self.file_bytes, self.files = name, file_bytes, files
        self.offset = 0
        self.fd = -1
        self.left = 0
        self.kept = []

    def write(self, data):
        """Append; what cannot be written, as on a full disk, is left out and leaves a gap between two files."""
        while data:
            try:
                if self.left == 0:
                    self._rotate()
                size = os.write(self.fd, data[: self.left])
            except OSError:
                self.offset += len(data)
                self.close()
                return
            self.offset += size
            self.left -= size
            data = data[size:]

    def close(self):
        """Close the current file; more output goes into another."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.left = -1, 0

    def _rotate(self):
        self.close()
        path = f"{self.name}.{self.offset:020d}"
        # A new file always: what somebody else has put there under this name, a link above all, is not written through.
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.left = self.file_bytes
        self.kept.append(path)
        while len(self.kept) > self.files:
            _remove(self.kept.pop(0))


# -- in the new process, before it becomes the command ---------------------------------------------------------------------


def _become(launch, shim_pid, out_fd, err_fd, tell_fd):
    """Turn this process into the command. Never returns: tells why not, and exits."""
    try:
        os.setsid()
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != shim_pid:
            os._exit(1)
        for note in _constrain(launch):
            os.write(tell_fd, f"+{note}\n".encode())
        null_fd = os.open("/dev/null", os.O_RDONLY)
        for fd, target in ((null_fd, 0), (out_fd, 1), (err_fd, 2)):
            os.dup2(fd, target)
        # All of them: what a shell starts in the background ignores SIGQUIT, too.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.umask(0o022)
        os.chdir(launch["working_dir"])
        os.execvpe(launch["command"][0], launch["command"], launch["env"])
    except BaseException as error:
        os.write(tell_fd, f"-{_why(error, launch)}\n".encode())
    finally:
        os._exit(127)


def _why(error, launch):
    what = getattr(error, "strerror", None) or repr(error)
    where = getattr(error, "filename", None)
    if where == launch["working_dir"]:
        return f"it cannot start in {where!r}: {what}"
    return f"{launch['command'][0]!r} cannot be started: {what}"


def _constrain(launch):
    """Limit this process as the plan says; yields what was and what could not be done."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if launch["nice"]:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + launch["nice"])
    if launch["oom_score_adj"]:
        yield from _attempt("OOM score", lambda: _put("/proc/self/oom_score_adj", launch["oom_score_adj"]))
    if launch["cpus"]:
        yield from _attempt(f"CPUs {launch['cpus']}", lambda: os.sched_setaffinity(0, launch["cpus"]))
    if launch["numa"]:
        yield from _attempt(f"memory of NUMA nodes {launch['numa']}", lambda: _prefer_memory_of(launch["numa"]))
    if launch["memory_bytes"]:
        yield from _limit_memory(launch)


def _attempt(what, do):
    try:
        do()
    except OSError as error:
        yield f"{what}: not permitted ({error.strerror})"
    else:
        yield f"{what}: set"


def _prefer_memory_of(nodes):
    """Prefer memory of some NUMA nodes. Not binding: the plan counts memory by host, so one node's may well run out."""
    number = SET_MEMPOLICY.get(os.uname().machine)
    if number is None:
        raise OSError(38, "unknown machine type")
    for mode, wanted in ((MPOL_PREFERRED_MANY, nodes), (MPOL_PREFERRED, nodes[:1])):
        mask = (ctypes.c_ulong * 16)()
        for node in wanted:
            mask[node // 64] |= 1 << node % 64
        if _LIBC.syscall(ctypes.c_long(number), ctypes.c_int(mode), mask, ctypes.c_ulong(1024)) == 0:
            return
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _limit_memory(launch):
    """Enter the control group, or limit each process's data where there is none.

    RLIMIT_DATA rather than RLIMIT_AS: address space that is only reserved, as by CUDA and by every thread of the C library, is
    not memory.
    """
    if launch["cgroup"]:
        try:
            _put(launch["cgroup"] + "/cgroup.procs", 0)
        except OSError as error:
            yield f"memory limit by cgroup: not permitted ({error.strerror})"
        else:
            yield "memory limit by cgroup: set"
            return
    if not launch["rlimit"]:
        yield "memory limit: none, as there is no cgroup and an rlimit would count what GPUs map"
        return
    limit = launch["memory_bytes"]
    yield from _attempt("memory limit by rlimit", lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))


# -- control groups --------------------------------------------------------------------------------------------------------


def _make_cgroup(launch, notes):
    """Make the run's control group where the driver says that it may."""
    path = launch["cgroup"]
    if not path:
        return
    try:
        os.makedirs(path, exist_ok=True)
        _put(path + "/memory.max", launch["memory_bytes"])
        _put(path + "/memory.oom.group", 1)
    except OSError as error:
        notes.append(f"cgroup {path}: not permitted ({error.strerror})")
        launch["cgroup"] = ""
        return
    with contextlib.suppress(OSError):  # without swap accounting the limit holds for memory alone
        _put(path + "/memory.swap.max", 0)


def _clear_cgroup(launch):
    """Remove the control group; returns whether the kernel killed something in it for want of memory."""
    path = launch["cgroup"]
    if not path:
        return False
    killed = False
    with contextlib.suppress(OSError, ValueError), open(path + "/memory.events", encoding="ascii") as file:
        killed = int(dict(line.split() for line in file).get("oom_kill", 0)) > 0
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return killed


# -- small things ----------------------------------------------------------------------------------------------------------


def _put(path, value):
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _load(path):
    """Return what a JSON file that is only ever replaced as a whole holds; None: it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None


def _read(fd):
    """Return what a non-blocking descriptor holds; empty at its end, None where there is nothing yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def _read_all(fd):
    parts = []
    while part := os.read(fd, READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _signal_group(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _signal(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _children():
    """Return the processes whose parent this one is."""
    me = str(os.getpid()).encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    if file.read().rpartition(b")")[2].split()[1] == me:
                        found.append(int(name))
            except (OSError, IndexError):
                continue
    return found


if __name__ == "__main__":
    if os.fork() == 0:  # whoever started it is not its parent, and need not wait for it
        main(sys.argv[1], int(sys.argv[2]))
        os._exit(0)
    os._exit(0)
