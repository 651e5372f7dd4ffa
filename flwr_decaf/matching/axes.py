"""Dimensions that must be permuted together: a union-find of axes of units."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A dimension over the units of ``axis``, each with ``repeat`` consecutive entries."""

    axis: int
    repeat: int = 1


Label = Place | None  # None: a dimension whose entries stay in place


class Axes:
    """Axes of units, which the operations of a model tie to one another."""

    def __init__(self) -> None:
        self._parent: list[Place] = []
        self._size: list[int] = []
        self._fixed: set[int] = set()

    def new(self, size: int) -> Place:
        """Create an axis of ``size`` units that is not tied to any other."""
        self._size.append(size)
        self._parent.append(Place(len(self._parent)))
        return self._parent[-1]

    def root(self, place: Place) -> Place:
        """Return the units that a dimension runs over, after all ties."""
        axis, repeat = place
        while self._parent[axis].axis != axis:
            parent = self._parent[axis]
            axis, repeat = parent.axis, repeat * parent.repeat
        return Place(axis, repeat)

    def size(self, axis: int) -> int:
        """Return the number of units of an axis."""
        return self._size[axis]

    def is_fixed(self, axis: int) -> bool:
        """Return whether the units of an axis must stay in place."""
        return self.root(Place(axis)).axis in self._fixed

    def fix(self, label: Label) -> None:
        """Keep the units of a dimension in place."""
        if label is not None:
            self._fixed.add(self.root(label).axis)

    def tie(self, first: Label, second: Label) -> None:
        """Require two dimensions of the same length to be permuted together.

        If one has more entries per unit, the units of the other are permuted in blocks of that
        size. If the block sizes are not multiples of one another, both dimensions stay in place.
        """
        if first is None or second is None:
            self.fix(first)
            self.fix(second)
            return
        coarse, fine = sorted((self.root(first), self.root(second)), key=lambda p: -p.repeat)
        if coarse.axis == fine.axis:
            return
        if coarse.repeat % fine.repeat:
            self.fix(coarse)
            self.fix(fine)
            return
        self._parent[fine.axis] = Place(coarse.axis, coarse.repeat // fine.repeat)
        if fine.axis in self._fixed:
            self._fixed.add(coarse.axis)
