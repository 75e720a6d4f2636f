"""Trains a small network on several processes that average their gradients; needs NumPy and nothing else.

Every process runs this same script. Plenum (like torchrun) says through the environment which one it is: ``RANK``,
``WORLD_SIZE``, and where rank 0 listens: ``MASTER_ADDR``, ``MASTER_PORT``. Each step,

1. every rank computes the gradient on its own share of the data,
2. sends it to rank 0, which sends back the mean,
3. and takes the same step from the same place, so that all stay equal.

Rank 0 writes a checkpoint to ``PLENUM_CHECKPOINT_DIR`` every few steps. When a process dies, the others notice, and exit: a
gang that is not whole is of no use. Started again, all go on from the checkpoint, and end where they would have ended anyway:
a step's data depend on the step and the rank alone.

Try it alone::

    PLENUM_CHECKPOINT_DIR=/tmp/checkpoints python examples/data_parallel.py --steps 200
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

INPUTS, HIDDEN, BATCH = 16, 32, 256
RATE, MOMENTUM = 0.05, 0.9
START_TIMEOUT_S = 60.0
"""Longest that ranks wait for one another at the start."""
STOPPED_EXIT = 128 + signal.SIGTERM


class Training(NamedTuple):
    """All that changes from step to step: how many steps are done, all weights in one row, and their velocities."""

    step: int
    weights: Array
    velocity: Array


def main() -> int:
    """Train, and return the exit code."""
    options = parse()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = os.environ.get("PLENUM_CHECKPOINT_DIR", "")
    checkpoint = Path(folder, "checkpoint.npz") if folder and rank == 0 else None
    try:
        with meet(rank, world, timeout_s=max(5.0, 5 * options.step_s)) as gang:
            training = begin(gang, checkpoint, options.seed)
            while training.step < options.steps and not stopped:
                training, loss = train(gang, training, options.seed)
                due = training.step % options.checkpoint_every == 0 or training.step == options.steps
                if checkpoint is not None and due:
                    save(checkpoint, training)
                if rank == 0:
                    print(f"step {training.step} loss {loss:.6f}", flush=True)
                time.sleep(options.step_s)
            if checkpoint is not None and stopped:
                save(checkpoint, training)
    except OSError as error:
        print(f"rank {rank}: lost the gang: {error}", file=sys.stderr, flush=True)
        return 1
    return STOPPED_EXIT if stopped else 0


def parse() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Train a small network, data-parallel.")
    parser.add_argument("--steps", type=int, default=100, help="steps in all, those before a restart included")
    parser.add_argument("--step-s", type=float, default=0.0, help="seconds to rest after each step")
    parser.add_argument("--checkpoint-every", type=int, default=5, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the first weights")
    return parser.parse_args()


# -- the gang --------------------------------------------------------------------------------------------------------------


class Gang:
    """One's own rank, and connections: from rank 0 to all others, in order of rank; from each of those to rank 0."""

    def __init__(self, rank: int, world: int, peers: list[socket.socket]) -> None:
        self.rank, self.world, self.peers = rank, world, peers

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()

    def mean(self, row: Array) -> Array:
        """Return the mean of all ranks' rows; added up in order of rank, it is the same every time, bit for bit."""
        if self.rank:
            self.peers[0].sendall(row.tobytes())
            return receive(self.peers[0], row.size)
        total = row.copy()
        for peer in self.peers:
            total += receive(peer, row.size)
        return self.from_first(total / self.world)

    def from_first(self, row: Array) -> Array:
        """Return rank 0's row; of the others' only the length matters."""
        if self.rank:
            return receive(self.peers[0], row.size)
        for peer in self.peers:
            peer.sendall(row.tobytes())
        return row


def meet(rank: int, world: int, *, timeout_s: float) -> Gang:
    """Connect all ranks; whoever is silent for longer than the timeout from then on is taken for dead.

    Raises
    ------
    OSError
        Somebody did not come.
    """
    if world == 1:
        return Gang(rank, world, [])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    peers = welcome(address, world) if rank == 0 else [join(address, rank)]
    for peer in peers:
        peer.settimeout(timeout_s)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Gang(rank, world, peers)


def welcome(address: tuple[str, int], world: int) -> list[socket.socket]:
    """Return connections from all other ranks, in order; a rank says who it is in its first number."""
    give_up_s = time.monotonic() + START_TIMEOUT_S
    peers: dict[int, socket.socket] = {}
    try:
        with socket.create_server(address, backlog=world) as server:
            while len(peers) < world - 1:
                server.settimeout(max(give_up_s - time.monotonic(), 0.001))
                peer, _ = server.accept()
                peer.settimeout(5)
                who = int(receive(peer, 1)[0])
                if not 0 < who < world or who in peers:
                    peer.close()
                    raise ConnectionError(f"somebody joined as rank {who} of {world}")
                peers[who] = peer
    except OSError:
        for peer in peers.values():
            peer.close()
        raise
    return [peers[rank] for rank in sorted(peers)]


def join(address: tuple[str, int], rank: int) -> socket.socket:
    """Return a connection to rank 0, which may not listen yet."""
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            peer = socket.create_connection(address, timeout=5)
        except OSError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.05)
        else:
            peer.sendall(np.array([rank], dtype=np.float64).tobytes())
            return peer


def receive(peer: socket.socket, size: int) -> Array:
    """Return so many numbers from a peer."""
    buffer = bytearray(8 * size)
    view = memoryview(buffer)
    while view:
        read = peer.recv_into(view)
        if read == 0:
            raise ConnectionError("a peer has gone")
        view = view[read:]
    return np.frombuffer(buffer, dtype=np.float64).copy()


# -- training --------------------------------------------------------------------------------------------------------------


def begin(gang: Gang, checkpoint: Path | None, seed: int) -> Training:
    """Return where rank 0 begins, from its checkpoint or from nothing, on all ranks."""
    weights = 0.5 * np.random.default_rng((seed, 1)).standard_normal(HIDDEN * (INPUTS + 2))
    training = Training(0, weights, np.zeros_like(weights))
    if checkpoint is not None and checkpoint.exists():
        with np.load(checkpoint) as saved:
            training = Training(int(saved["step"]), saved["weights"], saved["velocity"])
        print(f"resumed from step {training.step}", flush=True)
    row = gang.from_first(np.concatenate(([training.step], training.weights, training.velocity)))
    return Training(int(row[0]), *np.split(row[1:], 2))


def train(gang: Gang, training: Training, seed: int) -> tuple[Training, float]:
    """Return the training one step on, and the mean loss of all ranks before it."""
    x, y = batch(seed, training.step, gang.rank)
    loss, gradient = loss_and_gradient(training.weights, x, y)
    mean = gang.mean(np.concatenate(([loss], gradient)))
    velocity = MOMENTUM * training.velocity - RATE * mean[1:]
    return Training(training.step + 1, training.weights + velocity, velocity), float(mean[0])


def batch(seed: int, step: int, rank: int) -> tuple[Array, Array]:
    """Return inputs (BATCH, INPUTS) and what is to be learned from them (BATCH)."""
    x = np.random.default_rng((seed, 2, step, rank)).standard_normal((BATCH, INPUTS))
    return x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2]


def loss_and_gradient(weights: Array, x: Array, y: Array) -> tuple[float, Array]:
    """Return the mean squared error of a network with one hidden layer, and its gradient by all weights."""
    w1 = weights[: INPUTS * HIDDEN].reshape(INPUTS, HIDDEN)
    b1, w2 = np.split(weights[INPUTS * HIDDEN :], 2)
    hidden = np.tanh(x @ w1 + b1)
    error = hidden @ w2 - y
    back = 2 / BATCH * error
    inner = np.outer(back, w2) * (1 - hidden**2)
    gradient = np.concatenate(((x.T @ inner).ravel(), inner.sum(axis=0), hidden.T @ back))
    return float(np.mean(error**2)), gradient


def save(checkpoint: Path, training: Training) -> None:
    """Write a checkpoint so that a crash at any instant leaves the old one or the new one."""
    beside = checkpoint.with_suffix(".new")
    with beside.open("wb") as file:
        np.savez(file, step=training.step, weights=training.weights, velocity=training.velocity)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(checkpoint)


if __name__ == "__main__":
    sys.exit(main())
