"""SAM 2's prompt encoder: SAM's, but for the padding point."""

from typing import ClassVar

from segkit.prompts.encoder import SamPromptEncoder


class Sam2PromptEncoder(SamPromptEncoder):
    """Encode points, boxes and masks with the weights of SAM 2's own prompt encoder.

    Source: "SAM 2" (Ravi et al., 2024), appendix D.1. As in SAM, but the official predictors give a
    box as two points and append the padding point to every list of points, so an object's tokens
    depend on nothing but its own marks. "Nothing marked", on the frames a tracker follows, is one
    padding point.

    Example:
        >>> import torch
        >>> from segment_anything.modeling import PromptEncoder
        >>> from segkit.typing import Prompts
        >>> encoder = Sam2PromptEncoder(PromptEncoder(32, (4, 4), (64, 64), 16))
        >>> box = Prompts(torch.tensor([[[0.0, 8, 9], [0, 20, 30]]]), torch.tensor([[2, 3]]))
        >>> encoder(box, (64, 96)).sparse.shape
        torch.Size([1, 3, 32])
    """

    pads_boxes: ClassVar[bool] = True
