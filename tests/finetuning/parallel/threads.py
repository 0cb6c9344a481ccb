"""Processes of a training as threads of this one, which need no start."""

import contextlib
import threading

import torch

from sktransfer.finetuning.parallel import Replicas
from sktransfer.finetuning.parallel.follower import END, Follower, Message


class Hub:
    """What the threads exchange in one operation, in which all of them take part."""

    def __init__(self, size: int):
        self.size, self.barrier = size, threading.Barrier(size, timeout=60)
        self.given = [None] * size
        self.actions = []  # what was asked for

    def exchange(self, rank: int, given, then):
        self.given[rank] = given
        self.barrier.wait()
        try:
            return then(self.given)
        finally:
            self.barrier.wait()


class ThreadLink:
    """Has the methods of :class:`Link`."""

    def __init__(self, hub: Hub, rank: int):
        self.hub, self.rank, self.size = hub, rank, hub.size
        self._awaits = False

    def scatter(self, messages=None):
        if self._awaits:
            self.gather()
        if messages is not None:
            self.hub.actions.append(messages[0].action)
            self._awaits = True
        return self.hub.exchange(
            self.rank, messages, lambda given: [None, *given[0]][self.rank] if given[0] else None
        )

    def gather(self, reply=None):
        self._awaits = False
        return self.hub.exchange(self.rank, reply, lambda given: list(given[1:]))

    @torch.no_grad()
    def broadcast(self, tensors):
        def copy(given):
            for mine, its in zip(_unpacked(tensors), _unpacked(given[0]), strict=True):
                if self.rank:
                    mine.copy_(its)

        self.hub.exchange(self.rank, tensors, copy)

    @torch.no_grad()
    def reduce(self, tensors):
        def add(given):
            for others in given[1:] if not self.rank else ():
                for mine, its in zip(_unpacked(tensors), _unpacked(others), strict=True):
                    mine.add_(its)

        self.hub.exchange(self.rank, tensors, add)


def _unpacked(packed):
    return [tensor for _, group in packed for tensor in group]


class ThreadFollower(Follower):
    _loading = threading.Lock()  # torch.fx is not made for several threads

    def start(self, payload):
        with self._loading:
            super().start(payload)


@contextlib.contextmanager
def replicas_in_threads(devices, tail, hubs=None):
    """Stand in for ``replicas_on``."""
    if len(devices) == 1:
        yield None
        return
    hub = Hub(len(devices))
    if hubs is not None:
        hubs.append(hub)
    link = ThreadLink(hub, 0)
    followers = [ThreadFollower(ThreadLink(hub, i), devices[i]) for i in range(1, hub.size)]
    threads = [threading.Thread(target=follower.run) for follower in followers]
    for thread in threads:
        thread.start()
    try:
        yield Replicas(link, tail)
    finally:
        link.scatter([Message(END, (None,))] * (hub.size - 1))
        for thread in threads:
            thread.join()
