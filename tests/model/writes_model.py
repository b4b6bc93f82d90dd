"""What the inbox promises, in the fewest words: secrets with versions, writes with an end, policy "a person decides".

No database, no locks, no time: one list of writes at the Primary, settled in the order of their sequence numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OPEN = ("unsent", "received")


@dataclass
class Secret:
    version: int
    value: str
    living: bool = True


@dataclass
class Write:
    """`base` is the version the gateway knew; None when it was made on `previous`."""

    id: str
    gateway: str
    sequence: int
    epoch: int
    secret: str
    value: str
    base: int | None
    previous: str = ""
    outcome: str = "unsent"
    version: int = 0


@dataclass
class Model:
    active: str
    epoch: int
    secrets: dict[str, Secret] = field(default_factory=dict)
    writes: dict[str, Write] = field(default_factory=dict)

    def accept(self, write: Write) -> None:
        self.writes[write.id] = write

    def take(self, identifier: str) -> None:
        """It arrives, perhaps again. One of the past is set aside at once, also when it was waiting here already."""
        write = self.writes[identifier]
        if write.outcome in OPEN:
            write.outcome = "received" if self._present(write) else "quarantined"

    def settle_all(self) -> None:
        for write in sorted(self.writes.values(), key=lambda one: (one.gateway, one.sequence)):
            if write.outcome == "received":
                write.outcome = self._end(write)

    def change(self, secret: str, value: str | None = None, living: bool = True) -> None:
        """Somebody changes a secret at the Primary."""
        known = self.secrets[secret]
        known.version, known.value, known.living = known.version + 1, value or known.value, living

    def promote(self, gateway: str) -> None:
        self.active, self.epoch = gateway, self.epoch + 1

    def _present(self, write: Write) -> bool:
        return (write.gateway, write.epoch) == (self.active, self.epoch)

    def _end(self, write: Write) -> str:
        if not self._present(write):
            return "quarantined"
        previous = self.writes.get(write.previous)
        if (previous and previous.outcome in OPEN) or self._earlier_waits(write):
            return "received"
        secret = self.secrets[write.secret]
        if previous and previous.outcome != "applied":
            return "conflict"
        base = previous.version if previous else write.base
        if not secret.living or base != secret.version:
            return "conflict"
        secret.version, secret.value, write.version = secret.version + 1, write.value, secret.version + 1
        return "applied"

    def _earlier_waits(self, write: Write) -> bool:
        return any(
            other.outcome == "received" and other.sequence < write.sequence
            for other in self.writes.values()
            if (other.gateway, other.secret) == (write.gateway, write.secret)
        )
