"""What a tracker remembers of each object: a value of bounded size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Direction = Literal[1, -1]


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much is kept of an object.

    `prompted` frames are kept for good; of more, the first and the latest stay. `maps` and
    `pointers` are the reach, in frames, of what is remembered of frames without a prompt. One more
    of each is stored, so that the latest frame can be corrected from what was known before it.
    """

    prompted: int = 8
    maps: int = 6
    pointers: int = 15

    def __post_init__(self) -> None:
        if self.prompted < 2 or self.maps < 1 or self.pointers < self.maps:
            raise ValueError(
                f"needs prompted >= 2 and pointers >= maps >= 1, got prompted={self.prompted}, "
                f"maps={self.maps}, pointers={self.pointers}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """One frame of one object: a map of the grid and a vector that points at the object."""

    frame: int
    pointer: Float[Tensor, " dim"]
    map: Float[Tensor, "cells memory"] | None


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMemory:
    """All that is remembered of the object `id` on image `image` of a batch of clips.

    `recent` is sorted by time of writing, oldest first.
    """

    id: int
    image: int = 0
    prompted: tuple[Memory, ...] = ()
    recent: tuple[Memory, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Recollection:
    """What one object attends to at one time, with ages in frames; age 0 marks prompted maps."""

    maps: tuple[tuple[Float[Tensor, "cells memory"], int], ...]
    pointers: tuple[tuple[Float[Tensor, " dim"], int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBank:
    """Memory of all objects before frame number `frame` is seen, tracking in `direction`.

    Its size is bounded by `capacity`, whatever the length of the clip. `rounds` stores maps as
    bfloat16, as the released predictors do; turn it off to train through the memory.

    Source: "SAM 2" (Ravi et al., 2024), section 4. For one pass in one direction, what is dropped
    is never read again, so masks equal those of keeping everything.

    Example:
        >>> bank = MemoryBank().add([1, 2])
        >>> bank.ids, bank.frame, bank.has_memory(1)
        ((1, 2), 0, False)
    """

    objects: tuple[ObjectMemory, ...] = ()
    frame: int = 0
    direction: Direction = 1
    capacity: Capacity = Capacity()
    rounds: bool = True

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects in the order in which they were added."""
        return tuple(one.id for one in self.objects)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors it holds."""
        kept = [memory for one in self.objects for memory in (*one.prompted, *one.recent)]
        return sum(
            tensor.numel() * tensor.element_size()
            for memory in kept
            for tensor in (memory.pointer, memory.map)
            if tensor is not None
        )

    def at(self, frame: int, direction: Direction = 1) -> "MemoryBank":
        """The same memory, about to see another frame."""
        return replace(self, frame=frame, direction=direction)

    def add(self, ids: Iterable[int], images: Iterable[int] | None = None) -> "MemoryBank":
        """Add objects that are not known yet, each on the image of `images` (0 by default)."""
        ids = list(ids)
        places = [0] * len(ids) if images is None else list(images)
        new = [
            ObjectMemory(one, place)
            for one, place in zip(ids, places, strict=True)
            if one not in self.ids
        ]
        return replace(self, objects=(*self.objects, *new))

    def remove(self, id_: int) -> "MemoryBank":
        """Forget an object."""
        return replace(self, objects=tuple(one for one in self.objects if one.id != id_))

    def forget(self, id_: int, frame: int) -> "MemoryBank":
        """Forget one frame of an object."""
        (one,) = self._of([id_])
        prompted, recent = _without(one.prompted, frame), _without(one.recent, frame)
        return self._change({id_: replace(one, prompted=prompted, recent=recent)})

    def with_recent(self, id_: int, memories: Iterable[Memory]) -> "MemoryBank":
        """Replace what is known of an object from frames without a prompt, oldest first."""
        (one,) = self._of([id_])
        prompted = {memory.frame for memory in one.prompted}
        recent = tuple(memory for memory in memories if memory.frame not in prompted)
        return self._change({id_: replace(one, recent=recent[-self.capacity.pointers - 1 :])})

    def with_prompted(self, id_: int, other: "MemoryBank") -> "MemoryBank":
        """Take over the prompted frames of an object from another bank."""
        bank = self.add([id_])
        ((one,), (source,)) = bank._of([id_]), other._of([id_])
        frames = {memory.frame for memory in source.prompted}
        recent = tuple(memory for memory in one.recent if memory.frame not in frames)
        return bank._change({id_: replace(one, prompted=source.prompted, recent=recent)})

    def forget_recent(self) -> "MemoryBank":
        """Keep only the prompted frames, as before a pass from another place."""
        return self._change({one.id: replace(one, recent=()) for one in self.objects})

    def remember(
        self,
        ids: Sequence[int],
        maps: Float[Tensor, "objects cells memory"],
        pointers: Float[Tensor, "objects dim"],
        *,
        is_prompted: bool,
    ) -> "MemoryBank":
        """Keep what was found on the current frame, in place of what was known of it."""
        stored = maps.to(torch.bfloat16) if self.rounds else maps
        changed: dict[int, ObjectMemory] = {}
        for one, map_, pointer in zip(self._of(ids), stored, pointers, strict=True):
            # a view would keep the maps of the whole batch alive for as long as this one
            map_ = map_.clone() if is_prompted and len(ids) > 1 else map_
            memory = Memory(self.frame, pointer, map_)
            changed[one.id] = self._with(one, memory, is_prompted=is_prompted)
        return self._change(changed)

    def has_memory(self, id_: int) -> bool:
        """Whether there is anything to attend to at the current frame."""
        return bool(self.recollect([id_])[0].maps)

    def recollect(self, ids: Sequence[int]) -> tuple[Recollection, ...]:
        """What each object attends to at the current frame.

        Maps of prompted frames count always, others within their reach; pointers only of the past.
        """
        found = []
        for one in self._of(ids):
            maps = [(memory.map, 0) for memory in one.prompted if memory.map is not None]
            pointers = [
                (memory.pointer, age) for memory in one.prompted if (age := self._age(memory)) >= 0
            ]
            for memory in reversed(one.recent):
                age = self._age(memory)
                if memory.map is not None and 1 <= age <= self.capacity.maps:
                    maps.append((memory.map, age))
                if 1 <= age <= self.capacity.pointers:
                    pointers.append((memory.pointer, age))
            found.append(Recollection(tuple(maps), tuple(pointers)))
        return tuple(found)

    def _age(self, memory: Memory) -> int:
        return (self.frame - memory.frame) * self.direction

    def _of(self, ids: Sequence[int]) -> list[ObjectMemory]:
        known = {one.id: one for one in self.objects}
        if unknown := [id_ for id_ in ids if id_ not in known]:
            raise ValueError(f"objects {unknown} are not in the bank; it holds {self.ids}")
        return [known[id_] for id_ in ids]

    def _change(self, changed: dict[int, ObjectMemory]) -> "MemoryBank":
        return replace(self, objects=tuple(changed.get(one.id, one) for one in self.objects))

    def _with(self, one: ObjectMemory, new: Memory, *, is_prompted: bool) -> ObjectMemory:
        prompted = _without(one.prompted, new.frame)
        recent = _without(one.recent, new.frame)
        if is_prompted:
            prompted = (*prompted, new)
            if len(prompted) > self.capacity.prompted:
                # the first frame says best what is meant, the latest what it looks like now
                prompted = (prompted[0], *prompted[2:])
        else:
            recent = (*recent, new)[-self.capacity.pointers - 1 :]
            old = len(recent) - self.capacity.maps - 1
            recent = tuple(
                replace(memory, map=None) if place < old and memory.map is not None else memory
                for place, memory in enumerate(recent)
            )
        return replace(one, prompted=prompted, recent=recent)


def _without(memories: tuple[Memory, ...], frame: int) -> tuple[Memory, ...]:
    return tuple(memory for memory in memories if memory.frame != frame)
