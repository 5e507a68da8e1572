"""One connection, without its socket: which requests may begin, and in which order their replies go out.

Requests of one connection are executed in order, as far as anybody can tell. Each belongs to a lane. Requests of one
lane may be under way together: key-value operations wait for one commit, searches run on several threads, changes of
vectors become one batch. A request of another lane begins when all earlier ones are answered. So a search sees the
vectors that were set before it, and not those that were set after.

Replies wait in slots, in the order of the requests. What was done at once needs no slot: it gathers in `Session.out`
until the end of a *tick*, in which the loop looks at all connections that have sent something.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol

from skeg.net.access import Gate

WINDOW = 128
"""Slots of a connection: replies that it can wait for at a time."""

TICK_BYTES = 1 << 20
"""Bytes of replies after which a connection waits for the next tick, and for its socket."""

AT_ONCE_MAX = 16
"""Queries of one connection that are answered on the thread of the loop before it looks after others again: some 0.4 ms
with the lists that recall .95 takes, 3 ms with the longest."""

HELD_BYTES = 16 << 20
"""Bytes of writes and of replies that wait for others, after which nothing more begins."""


class NotNowError(Exception):
    """A request can't be judged before what was begun in this tick is executed; raised before it has any effect."""


class Lane(IntEnum):
    """What may be under way together."""

    KEYS = 0
    SEARCH = 1
    CHANGE = 2
    ALONE = 3


# To look up a member in its class takes longer than to call a function, up to Python 3.11.
KEYS, SEARCH, CHANGE, ALONE = Lane


class Link(Protocol):
    """What a session needs of its connection."""

    def send(self, data: bytes) -> None:
        """Write to the peer."""

    def wake(self, session: Session) -> None:
        """Have `Session.advance` called in the next tick."""

    def answered(self, operations: Sequence[int], started: float) -> None:
        """Requests, by number of their operation, that began at a time are answered now; perhaps none."""

    def finish(self) -> None:
        """Close the connection once everything that was sent is out."""


class Slot:
    """The place of a reply that is not known yet."""

    __slots__ = ("data", "operations", "parts", "started", "weight")

    def __init__(self, operations: list[int], started: float, parts: list[bytes]) -> None:
        self.parts = parts
        self.data: bytes | None = None
        self.operations = operations
        self.started = started
        self.weight = 0  # bytes that are kept for it


class Session(ABC):
    """The requests and replies of a connection; both protocols build on it.

    Parameters
    ----------
    link : Link
        The connection.
    gate : Gate
        Keeps out who has not given the password.
    """

    FULL = b""
    """What one client too many is told before the connection is closed, if the protocol has words for it."""

    def __init__(self, link: Link, gate: Gate) -> None:
        self.link = link
        self.gate = gate
        self.inbox: deque[Any] = deque()
        # Bytes that a request takes which has not arrived whole.
        self.pending = 0
        self.out: list[bytes] = []
        self.out_bytes = 0
        # Bytes of the writes that wait for the end of the tick: what is read after them may be as long.
        self.batch_bytes = 0
        self.operations: list[int] = []
        self.started = 0.0
        self._at_once_left = AT_ONCE_MAX
        self.slots: deque[Slot] = deque()
        self.held_bytes = 0  # the weight of all of them
        self.lane = KEYS
        # Whether some of `out` is known only when this tick's operations were executed.
        self.is_in_batch = False
        # The peer does not read: nothing begins.
        self.is_paused = False
        # No further requests: the connection ends when all replies are out.
        self.is_ending = False

    # --- what a protocol does

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Parse what arrived, append the requests to the inbox and note what is `pending`."""

    @abstractmethod
    def start(self, request: Any) -> bool:
        """Begin a request and note its reply, or return False if it can't begin yet."""

    @abstractmethod
    def describe(self) -> str:
        """Words about the connection, ``name=value``."""

    def check_gate(self) -> None:
        """End after the reply if too many passwords were wrong."""
        if self.gate.is_worn_out:
            self.end()

    def end(self) -> None:
        """Take no request any more, nor those that have arrived; called by the last one."""
        self.is_ending = True
        self.inbox.clear()
        self.inbox.append(None)  # the last one, which is taken out when it has begun

    # --- one tick

    def advance(self) -> None:
        """Begin requests until none is left or one has to wait."""
        inbox, start = self.inbox, self.start
        self.started = time.perf_counter()
        self._at_once_left = AT_ONCE_MAX
        while inbox and not self.is_paused and self.out_bytes <= TICK_BYTES and self.held_bytes <= HELD_BYTES:
            if not start(inbox[0]):
                break
            inbox.popleft()

    def take_from_tick(self, count: int) -> None:
        """Count queries that are about to be answered on this thread; `NotNowError` if others have to come first."""
        if count > self._at_once_left:
            raise NotNowError
        self._at_once_left -= count

    def end_tick(self) -> None:
        """Send what is known, in its turn; `out` is complete now."""
        self.is_in_batch = False
        self.batch_bytes = 0
        if self.out:
            self.cut()
        if self.inbox:
            if not self.slots and not self.is_paused:
                self.link.wake(self)
        elif self.is_ending and not self.slots and not self.inbox:
            self.link.finish()

    def admits(self, lane: Lane) -> bool:
        """Whether a request of a lane may begin now."""
        if self.slots and (lane is not self.lane or lane is ALONE or len(self.slots) >= WINDOW):
            return False
        return lane is KEYS or not self.is_in_batch

    def fail(self) -> None:
        """Begin nothing any more: the connection is being given up."""
        self.inbox.clear()
        self.is_paused = self.is_ending = True

    # --- replies

    def cut(self) -> None:
        """Put what is in `out`, complete, behind everything that waits."""
        parts = self.out
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if self.slots:
            slot = self._slot([])
            slot.data = data
            self._append(slot, self.lane)
            self.out = []
            return
        operations, self.operations = self.operations, []
        self.out, self.out_bytes = [], 0
        self.link.send(data)
        self.link.answered(operations, self.started)

    def hold(self) -> Slot:
        """Put what is in `out` behind everything that waits; it may change until `release`."""
        slot = self._slot(self.out)
        self.out = []
        self._append(slot, KEYS)
        return slot

    def release(self, slot: Slot) -> None:
        """What `hold` held back may go out."""
        parts = slot.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(self.slots) > 1 or slot.operations:
            self.settle(slot, data)
            return
        self.slots.clear()
        self.held_bytes = 0
        self.link.send(data)
        self._go_on()

    def reserve(self, lane: Lane, operation: int, weight: int = 0) -> Slot:
        """A slot for the reply, of about ``weight`` bytes, of a request that has just begun; `settle` fills it."""
        if self.out:
            self.cut()
        slot = Slot([operation], self.started, [])
        slot.weight = weight
        self._append(slot, lane)
        return slot

    def settle(self, slot: Slot, data: bytes) -> None:
        """Fill a slot, and send what is in its turn now."""
        slot.data = data
        if len(data) > slot.weight:
            self.held_bytes += len(data) - slot.weight
            slot.weight = len(data)
        slots = self.slots
        if len(slots) == 1 and slots[0] is slot:
            slots.clear()
            self.held_bytes = 0
            self.link.answered(slot.operations, slot.started)
            self.link.send(data)
        elif slots and slots[0] is slot:
            ready = []
            while slots and slots[0].data is not None:
                done = slots.popleft()
                self.held_bytes -= done.weight
                ready.append(done.data or b"")
                self.link.answered(done.operations, done.started)
            self.link.send(ready[0] if len(ready) == 1 else b"".join(ready))
        self._go_on()

    def _go_on(self) -> None:
        """Begin what has waited for a slot, or end."""
        if self.inbox:
            self.link.wake(self)
        elif self.is_ending and not self.slots and not self.out:
            self.link.finish()

    def _append(self, slot: Slot, lane: Lane) -> None:
        self.lane = lane
        self.slots.append(slot)
        self.held_bytes += slot.weight

    def _slot(self, parts: list[bytes]) -> Slot:
        slot = Slot(self.operations, self.started, parts)
        slot.weight = self.out_bytes + self.batch_bytes
        self.operations = []
        self.out_bytes = 0
        return slot
