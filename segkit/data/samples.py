"""One training or validation sample: a slice from the cache, its neighbours, a random change."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from segkit.data.batches import Sample
from segkit.data.cache import StackCache
from segkit.data.cases import Case
from segkit.data.sampling import Draw, derive_seed
from segkit.data.stacks import Stack, StackError
from segkit.data.transforms import Augmentation, pad_to_model


class SliceSamples:
    """The slices of `table` (rows are case, slice), read from the cache one at a time.

    A plain index gives the slice as it is; a `Draw` gives it changed by `augmentation`, decided by
    (seed, epoch, index) and by nothing else, so the number of workers does not matter.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        stacks: Sequence[Stack],
        table: Int[np.ndarray, "samples 2"],
        cache: StackCache,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.cases, self.table, self._cache = cases, table, cache
        self._stacks = list(stacks)
        self._augmentation, self._seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.table)

    def name(self, index: int) -> str:
        """Case that a sample belongs to."""
        return self.cases[int(self.table[index, 0])].id

    def load(self, key: Draw | int) -> Sample:
        """Read one sample.

        Raises:
            InputError: The cache is damaged and the case cannot be read again.
        """
        if isinstance(key, Draw):
            variants = 0 if self._augmentation is None else self._augmentation.spec.variants
            form = key.epoch % variants if variants else key.epoch
            return self.read(key.index, derive_seed(self._seed, form, key.index))
        return self.read(key)

    def foreground(self, case: int, number: int) -> int:
        """Labelled pixels of a slice."""
        return int(self._stacks[case].foreground[number])

    def read(self, index: int, seed: int | None = None) -> Sample:
        """Read one sample, changed by the augmentation as `seed` decides; as it is without one."""
        case, number = (int(value) for value in self.table[index])
        image, mask = self._read(case, number)
        pixels, target = torch.from_numpy(image), torch.from_numpy(mask)
        facts = self._stacks[case].facts
        if seed is not None and self._augmentation is not None:
            pixels, target = self._augmentation(pixels, target, seed=seed)
        else:
            pixels, target = pad_to_model(pixels, target, facts.size)
        return Sample(
            image=pixels,
            mask=target,
            case_id=self.cases[case].id,
            slice_index=number,
            spacing_mm=facts.spacing_mm[1:],
        )

    def _read(
        self, case: int, number: int
    ) -> tuple[Float[np.ndarray, "c h w"], Int[np.ndarray, "h w"]]:
        try:
            return self._slices(case, number)
        except StackError as error:
            self._stacks[case] = self._cache.rebuild(self.cases[case], error)
            return self._slices(case, number)

    def _slices(
        self, case: int, number: int
    ) -> tuple[Float[np.ndarray, "c h w"], Int[np.ndarray, "h w"]]:
        stack = self._stacks[case]
        if self._cache.recipe.model_input.channels != "neighbours":
            return stack.image(number), stack.label(number)
        # the first and the last slice are their own neighbours, as in `SliceView`
        last = len(stack) - 1
        chosen = [max(number - 1, 0), number, min(number + 1, last)]
        return np.concatenate([stack.image(one) for one in chosen]), stack.label(number)
