"""The rules of a plan: from the fingerprint to settings, each with its reason.

A rule looks at the fingerprint and the request only. What depends on memory and time is measured
(`segkit.planning.dry_step`), not ruled.
"""

from collections.abc import Iterator, Sequence

from segkit.data.intensity import FULL_RANGE
from segkit.planning.fingerprint import Fingerprint
from segkit.planning.request import Decision, PlanRequest, PromptMode

_SIZES = (128, 256, 512)
_THICKNESS_PX = 8.0  # two cells of the mask decoder, which draws one cell per four pixels
_ENOUGH_PX = 256  # pictures keep at least this side, if they have it
_ENLARGED = 4  # a slice is never scaled up by more
_NEIGHBOURS = 4.0  # slices farther apart than so many pixels show other things
_EMPTY_KEPT = 0.2
_MANY_OBJECTS = 3
_FEWEST_OBJECTS, _MOST_OBJECTS = 4, 8  # limits of what is marked in one image at once
_ZOOM, _ZOOM_CROWDED = 2.0, 1.6  # width of a window in widths of its object; with others around
_ZOOM_SIZE, _ZOOM_GAIN = (
    128,
    1.5,
)  # side of a window as it is shown; less enlarged, it is not worth it
_NARROWEST = 50.0  # Hounsfield units
_RANGE_USED = 0.5  # by the median picture; darker ones lose more than half of their contrast
_HOLLOW = 0.3  # share of its box below which a box says little about an object
_HOUNSFIELD = -500.0  # air; nothing else has values like that
_CT_WINDOWS = ((-160.0, 240.0), (-1000.0, 400.0), (-200.0, 1000.0))  # soft tissue, lung, bone


def decide(found: Fingerprint, request: PlanRequest) -> list[Decision]:
    """All settings that follow from the fingerprint."""
    mode = request.prompt or prompt_mode(found, request)
    size = input_size(found)
    return [
        *_groups(found, request, mode),
        *_subjects(found, request),
        *_channels(found),
        *_size(found, size),
        *_slices(found, mode),
        *_objects(found, mode),
        *_zoom(found, mode, size),
        *_augmentation(found),
        *_rates(request, mode),
    ]


def prompt_mode(found: Fingerprint, request: PlanRequest) -> PromptMode:
    """Automatic unless there is one compact object that a user can mark."""
    classes = list(found.classes.values())
    if request.is_supervised or found.dimensions == 3 or len(classes) > 1 or found.instances:
        return "automatic"
    one = classes[0]
    is_crowd = one.objects_2d.median > _MANY_OBJECTS or one.fill.median < _HOLLOW
    return "automatic" if is_crowd else "mixed"


def objects_at_once(found: Fingerprint) -> int:
    """How many objects of an image are marked in one step: numbered ones, or one of each class."""
    if not found.instances:
        return min(_FEWEST_OBJECTS, len(found.classes))
    count = next(iter(found.classes.values())).objects_2d.median
    return int(min(_MOST_OBJECTS, max(_FEWEST_OBJECTS, round(count))))


def is_thin(found: Fingerprint) -> bool:
    """Whether the thinnest class is too thin at a side of 256 pixels."""
    return _thickness(found) * _scale(found, _ENOUGH_PX) < _THICKNESS_PX


def input_size(found: Fingerprint) -> int:
    """Smallest side at which the thinnest class can be drawn and pictures are not blurred."""
    native = max(found.plane)
    for size in _SIZES:
        is_drawn = _thickness(found) * _scale(found, size) >= _THICKNESS_PX
        if is_drawn and size >= min(native, _ENOUGH_PX):
            return size
        if size >= _ENLARGED * native:
            return size
    return _SIZES[-1]


def is_ct(found: Fingerprint) -> bool:
    """Whether intensities are Hounsfield units."""
    named = any("CT" in name.upper().split() for name in found.modality)
    return found.dimensions == 3 and (named or found.intensity.everywhere[0] <= _HOUNSFIELD)


def _thickness(found: Fingerprint) -> float:
    return min((one.thickness_px.median for one in found.classes.values()), default=0.0)


def _scale(found: Fingerprint, size: int) -> float:
    """Pixels of the model per pixel of the slice."""
    (rows, columns), (row_mm, column_mm) = found.plane, found.plane_mm
    return size / (max(rows * row_mm, columns * column_mm) / min(row_mm, column_mm))


def _groups(found: Fingerprint, request: PlanRequest, mode: PromptMode) -> Iterator[Decision]:
    kind = "volumes" if found.dimensions == 3 else "images"
    yield Decision("/data", kind, f"{found.looked_at} cases looked at: all are {kind}")
    if request.is_supervised:
        yield Decision("/backbone", request.model, "asked for; all of its weights are trained")
        yield Decision("/adapter", "none", "there is no frozen encoder")
    else:
        yield Decision("/backbone", "nano", "ships with segkit; larger ones need their weight file")
        thin = f"thinnest class: {_thickness(found):.1f} pixels wide"
        if is_thin(found):
            yield Decision("/adapter", "highfreq", f"{thin}: edges need the fine detail")
            yield Decision("adapter.ratio", 8, "width of the prompts: an eighth of the encoder's")
        else:
            yield Decision("/adapter", "dilated", f"{thin}: wide enough for the feature grid")
    yield Decision("/prompt", mode, _why_prompt(found, request, mode))
    if mode != "automatic":
        yield Decision("/loss", "dice_bce", "each object is a mask of its own")


def _why_prompt(found: Fingerprint, request: PlanRequest, mode: PromptMode) -> str:
    if request.prompt is not None:
        return "asked for"
    if request.is_supervised:
        return "the network takes no prompts"
    if mode == "mixed":
        one = next(iter(found.classes.values()))
        return (
            f"one class, {one.objects_2d.median:g} compact object(s) per image that a user can "
            "mark with a box or clicks; --prompt automatic does without"
        )
    classes = len(found.classes)
    if found.dimensions == 3:
        return f"{classes} class(es) in volumes: nobody marks every slice"
    if classes > 1:
        return f"{classes} classes, all from one pass"
    return "many or hollow objects per image: nobody marks each of them"


def _subjects(found: Fingerprint, request: PlanRequest) -> Iterator[Decision]:
    subjects = found.subjects.get("train", 0)
    if request.source.group_by is None and found.group_by is not None:
        yield Decision("data.group_by", found.group_by, found.group_reason)
    folds = min(5, subjects)
    if folds >= 2:
        yield Decision(
            "data.folds", folds, f"{subjects} subjects for cross-validation, never divided"
        )


def _channels(found: Fingerprint) -> Iterator[Decision]:
    if found.dimensions == 2:
        if not found.is_colour:
            yield Decision("data.channels", "repeat", "grey pictures")
        yield from _range(found)
        return
    ratio = found.slice_mm / min(found.plane_mm)
    is_near = ratio <= _NEIGHBOURS
    inside = found.intensity.inside
    if is_ct(found) and is_near:
        window = _window(inside[0], inside[4])
        reason = (
            f"Hounsfield units; 99 % of what is labelled lies in {inside[0]:g} to {inside[4]:g}, "
            "a quarter more on each side shows what is around"
        )
        yield Decision("data.intensity", {"kind": "window", "windows": [window]}, reason)
    elif is_ct(found):
        windows = [list(window) for window in _CT_WINDOWS]
        reason = "Hounsfield units: soft tissue, lung and bone"
        yield Decision("data.intensity", {"kind": "window", "windows": windows}, reason)
    far = f"slices lie {found.slice_mm:g} mm apart, pixels {min(found.plane_mm):g} mm"
    if is_near:
        yield Decision("data.channels", "neighbours", f"{far}: the slices beside show the same")
    else:
        kind = "windows" if is_ct(found) else "repeat"
        yield Decision("data.channels", kind, f"{far}: the slices beside show other things")


def _range(found: Fingerprint) -> Iterator[Decision]:
    """Pictures are read at the full range of their type, unless most of it is empty."""
    dtype, used = found.intensity.dtype, found.intensity.range_used.median
    if dtype not in FULL_RANGE:
        reason = f"{dtype} pixels have no full range"
        yield Decision("data.intensity.kind", "percentile", reason)
    elif used < _RANGE_USED:
        reason = (
            f"half of the pictures use no more than {used:.0%} of the range of {dtype}: each is "
            "stretched to its own"
        )
        yield Decision("data.intensity.kind", "percentile", reason)


def _window(low: float, high: float) -> list[float]:
    """A quarter wider on each side, in tens; never narrower than the noise of a scan."""
    middle, half = (low + high) / 2, 0.75 * max(high - low, _NARROWEST)
    return [round((middle - half) / 10) * 10.0, round((middle + half) / 10) * 10.0]


def _size(found: Fingerprint, size: int) -> Iterator[Decision]:
    rows, columns = found.plane
    thickness = _thickness(found)
    yield Decision(
        "data.size",
        size,
        f"median slice {rows:g} x {columns:g} pixels; the thinnest class, {thickness:.1f} pixels "
        f"wide there, becomes {thickness * _scale(found, size):.1f}",
    )


def _slices(found: Fingerprint, mode: PromptMode) -> Iterator[Decision]:
    if found.dimensions == 3:
        steps = [one.median for one in found.spacing_mm]
        name = "kji"[found.slice_axis]
        spacing = " x ".join(f"{step:g}" for step in steps)
        yield Decision(
            "data.slice_axis", None, f"spacing {spacing} mm (k, j, i): slices along {name}"
        )
    share = found.empty_slices
    if mode != "automatic":
        yield Decision("data.empty", "drop", "without an object there is nothing to mark")
    elif share > 0 and found.dimensions == 3:
        yield Decision(
            "data.empty", _EMPTY_KEPT, f"{share:.0%} of the slices have no label; a fifth is kept"
        )


def _objects(found: Fingerprint, mode: PromptMode) -> Iterator[Decision]:
    if found.instances and mode == "automatic":
        yield Decision(
            "data.slices.samples.label_options",
            {"_target_": "segkit.data.label_options.LabelOptions", "threshold": 0.5},
            "label values number objects: every number is the one class",
        )
    elif found.instances:
        yield Decision("data.instances", True, "label values number objects")
    if found.instances and mode != "automatic":
        count = next(iter(found.classes.values())).objects_2d.median
        reason = f"half of the pictures have {count:g} objects or more; so many a step"
        yield Decision("prompt.interaction.max_objects", objects_at_once(found), reason)


def _zoom(found: Fingerprint, mode: PromptMode, size: int) -> Iterator[Decision]:
    """Prompted objects that are small in their picture are cut out and enlarged."""
    if mode == "automatic" or found.dimensions == 3:
        return
    smallest = min(one.diameter_mm.median for one in found.classes.values())
    width = smallest / min(found.plane_mm) * _scale(found, size)
    factor = _ZOOM_CROWDED if found.instances else _ZOOM
    gain = _ZOOM_SIZE / (factor * max(width, 1.0))
    if gain >= _ZOOM_GAIN:
        reason = f"objects are {width:.0f} pixels wide there; a window around each shows them "
        zoom = {"_target_": "segkit.data.zoom.Zoom", "factor": factor, "size": _ZOOM_SIZE}
        yield Decision("data.zoom", zoom, f"{reason}{gain:.1f} times as large")


def _augmentation(found: Fingerprint) -> Iterator[Decision]:
    sided = _sided([one.name for one in found.classes.values()])
    if found.dimensions == 3 or sided:
        what = f"{sided!r} names a side" if sided else "scans have a left and a right"
        flips = {"flip_rows": False, "flip_columns": False}
        yield Decision("data.augment", flips, f"{what}: no mirroring")
    else:
        flips = {"flip_rows": True, "flip_columns": True}
        yield Decision("data.augment", flips, "pictures without a fixed side up")


def _sided(names: Sequence[str]) -> str:
    sides = ("left", "right")
    return next((name for name in names if any(side in name.lower() for side in sides)), "")


def _rates(request: PlanRequest, mode: PromptMode) -> Iterator[Decision]:
    if mode != "automatic":
        yield Decision("optimizer.lr", 2e-4, "the pretrained decoder already follows prompts")
        yield Decision("optimizer.lr_by_part", {"adapter": 1e-3}, "the adapter starts from nothing")
    elif not request.is_supervised:
        yield Decision("optimizer.lr", 1e-3, "class queries and adapter start from nothing")
