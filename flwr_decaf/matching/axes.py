"""Dimensions that must be permuted alike: a union-find of axes with several entries a unit."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A dimension over the units of ``axis``, each of which has ``repeat`` neighbouring entries."""

    axis: int
    repeat: int = 1


Label = Place | None  # None: a dimension whose entries stay where they are


class Axes:
    """Axes of units, tied to one another as a model's operations demand."""

    def __init__(self) -> None:
        self._parent: list[Place] = []
        self._size: list[int] = []
        self._fixed: set[int] = set()

    def new(self, size: int) -> Place:
        """Make an axis of ``size`` units that nothing is known of yet."""
        self._size.append(size)
        self._parent.append(Place(len(self._parent)))
        return self._parent[-1]

    def root(self, place: Place) -> Place:
        """Say over which units a dimension runs, after all ties."""
        axis, repeat = place
        while self._parent[axis].axis != axis:
            parent = self._parent[axis]
            axis, repeat = parent.axis, repeat * parent.repeat
        return Place(axis, repeat)

    def size(self, axis: int) -> int:
        """Count the units of an axis."""
        return self._size[axis]

    def is_fixed(self, axis: int) -> bool:
        """Tell whether an axis's units must stay in place."""
        return self.root(Place(axis)).axis in self._fixed

    def fix(self, label: Label) -> None:
        """Keep the units of a dimension in place."""
        if label is not None:
            self._fixed.add(self.root(label).axis)

    def tie(self, first: Label, second: Label) -> None:
        """Let two dimensions of the same length be permuted alike from now on.

        If one has more entries a unit, the other's units are bound together in blocks of as many.
        Where the blocks do not fit into one another, both stay in place.
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
