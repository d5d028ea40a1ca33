"""The outline between two outlines, for slices that lie between marked ones.

Source: "Shape-based interpolation of multidimensional objects" (Raya and Udupa, IEEE TMI 1990):
signed distances are blended; here both shapes are first moved onto the blended centre, so that an
oblique object keeps its size.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage


def between(
    one: Bool[np.ndarray, "rows cols"], other: Bool[np.ndarray, "rows cols"], share: float
) -> Float[np.ndarray, "rows cols"]:
    """Signed distance in pixels, positive inside, of the shape `share` of the way to `other`.

    Raises:
        ValueError: A mask is empty, or the share is not in [0, 1].
    """
    if not (one.any() and other.any() and 0 <= share <= 1):
        raise ValueError(f"two masks and a share in [0, 1] are needed, got share {share}")
    centres = [np.array(ndimage.center_of_mass(mask)) for mask in (one, other)]
    centre = (1 - share) * centres[0] + share * centres[1]
    moved = [
        ndimage.shift(_signed_distance(mask), centre - own, order=1, mode="nearest")
        for mask, own in zip((one, other), centres, strict=True)
    ]
    return (1 - share) * moved[0] + share * moved[1]


def _signed_distance(mask: Bool[np.ndarray, "rows cols"]) -> Float[np.ndarray, "rows cols"]:
    """Distance to the edge between pixels; infinite nowhere, as both kinds of pixels exist."""
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)
