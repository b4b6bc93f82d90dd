"""Something that is bounded in all, held by many addresses: when it is full, whoever holds the most of it makes room.

So a few addresses can use up what nobody else asks for, and never keep another one out. Addresses are compared by the site they
belong to first (`common.addresses.site_of`): who holds a little of each of 65,536 networks of one site holds much. Sizes are in
the unit of what is held (connections, bytes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from common.addresses import site_of


class Holder(Protocol):
    """What holds a part, for an address."""

    def make_room(self) -> None:
        """End: what it held is counted as free already. It may still give it back; that counts nothing."""
        ...


class Share:
    """At most `most` in all, and `most_of_one` for one address (0: no bound of its own)."""

    def __init__(self, most: int, most_of_one: int = 0) -> None:
        self.most, self.most_of_one = most, most_of_one
        self.total = 0
        self.of_network: Counter[str] = Counter()
        self.of_site: Counter[str] = Counter()
        self._holders: dict[str, dict[Holder, int]] = {}
        self._networks: dict[str, dict[str, None]] = {}
        """Of each site those that hold something, in the order in which they came."""

    def take(self, network: str, holder: Holder, size: int = 1) -> bool:
        """Let `holder` have so much more. False when its address has its part, or nobody's address has clearly more than it."""
        if size > self.most or (self.most_of_one and self.of_network[network] + size > self.most_of_one):
            return False
        while self.total + size > self.most:
            if not self._take_from_the_greediest(network, size):
                return False
        held = self._holders.setdefault(network, {})
        self._networks.setdefault(site_of(network), {})[network] = None
        held[holder] = held.get(holder, 0) + size
        self._count(network, size)
        return True

    def give(self, network: str, holder: Holder, size: int = 1) -> None:
        """Give so much back, or what is left of it. Who holds nothing any more gives nothing."""
        held = self._holders.get(network, {})
        size = min(size, held.get(holder, 0))
        if not size:
            return
        held[holder] -= size
        if not held[holder]:
            del held[holder]
        if not held:
            del self._holders[network], self._networks[site_of(network)][network]
        self._count(network, -size)

    def _count(self, network: str, size: int) -> None:
        self.total += size
        for counts, key in ((self.of_network, network), (self.of_site, site_of(network))):
            counts[key] += size
            if not counts[key]:
                del counts[key]
        if site_of(network) not in self.of_site:
            self._networks.pop(site_of(network), None)

    def note_newest(self, network: str, holder: Holder) -> None:
        """From now on this one is not older than any other of its address."""
        held = self._holders.get(network, {})
        if holder in held:
            held[holder] = held.pop(holder)

    def end_one_for(self, network: str, first: Callable[[Holder], bool]) -> bool:
        """Where everything is taken: end a holder of the address that holds the most (of this one, where none has more), one for
        which `first` is true if there is any. False when only this address could make room and has none such."""
        if not self._holders:
            return False
        chosen_network = self._who_makes_room(network, 0) or network
        held = self._holders.get(chosen_network, {})
        chosen = next((one for one in held if first(one)), None if chosen_network == network else next(iter(held)))
        if chosen is None:
            return False
        self._end(chosen_network, chosen)
        return True

    def _take_from_the_greediest(self, network: str, size: int) -> bool:
        greediest = self._who_makes_room(network, size)
        if greediest is None:
            return False
        held = self._holders[greediest]
        self._end(greediest, max(held, key=held.__getitem__))  # of equal ones the oldest
        return True

    def _who_makes_room(self, network: str, size: int) -> str | None:
        """Whose part `network` gets so much of; None for nobody's.

        Whoever holds nothing yet always comes in: at the expense of the site that holds the most, and of its own where that is
        it. Who holds something takes only from a network that has more than it then has, and whose site has more too.
        """
        site, mine = site_of(network), self.of_network[network]
        top = max(self.of_site, key=self.of_site.__getitem__)  # of equal ones the one that came first
        if not mine:
            is_own_turn = self.of_site[site] and self.of_site[top] <= self.of_site[site] + size
            return self._greediest_of(site if is_own_turn else top)
        for one in (self._greediest_of(top), max(self._holders, key=self.of_network.__getitem__)):
            its_site = site_of(one)
            has_more = its_site == site or self.of_site[its_site] > self.of_site[site] + size
            if has_more and self.of_network[one] > mine + size:
                return one
        return None

    def _greediest_of(self, site: str) -> str:
        return max(self._networks[site], key=self.of_network.__getitem__)

    def _end(self, network: str, holder: Holder) -> None:
        self.give(network, holder, self._holders[network][holder])
        holder.make_room()
