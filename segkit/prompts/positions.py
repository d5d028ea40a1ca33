"""Position codes of all cells of an image, computed once per size."""

import torch
from jaxtyping import Float
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor


class PositionCodes:
    """Dense position codes of `layer` for grids of cells; the latest few sizes are kept.

    A code depends on the size and on the random matrix of the layer alone, so it is computed again
    only when that matrix was replaced, moved or written to.

    Example:
        >>> codes = PositionCodes(PositionEmbeddingRandom(16))
        >>> codes((4, 6)).shape, codes((4, 6)) is codes((4, 6))
        (torch.Size([1, 32, 4, 6]), True)
    """

    most = 4

    def __init__(self, layer: PositionEmbeddingRandom) -> None:
        # not a module: the layer keeps its own name in the state of the prompt encoder
        self.layer = layer
        self._kept: dict[tuple[int, int], tuple[Tensor, int, Tensor]] = {}

    def __call__(self, cells: tuple[int, int]) -> Float[Tensor, "1 dim rows cols"]:
        """Codes of a grid of (rows, columns)."""
        matrix = self.layer.positional_encoding_gaussian_matrix
        if torch.compiler.is_compiling() or matrix.is_inference():
            return self.layer(cells)[None]
        kept = self._kept.get(cells)
        if kept is None or kept[0] is not matrix or kept[1] != matrix._version:
            # a tensor made in inference mode could not take part in training later
            with torch.inference_mode(False), torch.no_grad():
                kept = (matrix, matrix._version, self.layer(cells)[None])
            if len(self._kept) >= self.most:
                self._kept.clear()
            self._kept[cells] = kept
        return kept[2]
