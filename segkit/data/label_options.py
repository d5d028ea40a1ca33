"""What a user may tell the reader of label maps."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from segkit.errors import InputError

Colour = tuple[int, int, int]
NO_VALUES: Mapping[int, int] = MappingProxyType({})
NO_COLOURS: Mapping[Colour, int] = MappingProxyType({})


def parse_mapping(text: str) -> Mapping[int, int]:
    """Read "1=2,3=0": value in the file = value in the table."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return MappingProxyType({int(old): int(new) for old, new in pairs})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected OLD=NEW,..., got {text!r}") from error


def parse_colours(text: str) -> Mapping[Colour, int]:
    """Read "ff0000=1,00ff00=2": colour = label value."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        colours = [(bytes.fromhex(colour.removeprefix("#")), int(value)) for colour, value in pairs]
        return MappingProxyType({(r, g, b): value for (r, g, b), value in colours})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected RRGGBB=VALUE,..., got {text!r}") from error


def parse_names(text: str) -> tuple[str, ...]:
    """Read "liver,tumour"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """Options of `read_labels`. The flag names are in the metadata.

    `resample` brings labels of another lattice onto that of the image, nearest voxel. `one_hot`
    reads a stack of masks, one class each. `priority` names overlapping segments, the first wins.
    `colours` gives the value of each colour. `threshold` makes a grey mask binary. `mapping` gives
    new values to those of the file (others stay). `ignore` is the value of voxels that count for
    nothing. `instances` keeps object numbers: every value above 0 is allowed, and no threshold.
    """

    resample: bool = field(
        default=False,
        metadata={
            "flag": "--resample-labels",
            "help": "bring labels onto the lattice of the image",
            "parse": bool,
        },
    )
    one_hot: bool = field(
        default=False,
        metadata={
            "flag": "--one-hot",
            "help": "labels are a stack of masks, one class each",
            "parse": bool,
        },
    )
    priority: tuple[str, ...] = field(
        default=(),
        metadata={
            "flag": "--priority",
            "help": "segments that win where several overlap, best first",
            "parse": parse_names,
        },
    )
    colours: Mapping[Colour, int] = field(
        default_factory=lambda: NO_COLOURS,
        metadata={
            "flag": "--colours",
            "help": "label values of colours, as RRGGBB=VALUE,...",
            "parse": parse_colours,
        },
    )
    threshold: float | None = field(
        default=None,
        metadata={
            "flag": "--threshold",
            "help": "grey values above it are the object, e.g. 127",
            "parse": float,
        },
    )
    mapping: Mapping[int, int] = field(
        default_factory=lambda: NO_VALUES,
        metadata={
            "flag": "--map-labels",
            "help": "new label values, as OLD=NEW,...",
            "parse": parse_mapping,
        },
    )
    ignore: int | None = field(
        default=None,
        metadata={"flag": "--ignore-value", "help": "value that counts for nothing", "parse": int},
    )
    instances: bool = field(
        default=False,
        metadata={
            "flag": "--instances",
            "help": "values are object numbers, not classes",
            "parse": bool,
        },
    )

    def __post_init__(self) -> None:
        # settings that went through text name values by text
        numbers = {int(old): new for old, new in self.mapping.items()}
        object.__setattr__(self, "mapping", numbers or NO_VALUES)
        new = [*self.mapping.values(), *self.colours.values()]
        if any(value < 0 for value in new):
            raise InputError(f"label values must be >= 0, got {sorted(new)}")
        if self.instances and self.threshold is not None:
            raise InputError(
                f"instances need the numbers of the objects, but threshold {self.threshold} makes "
                "all of them one",
                fix="leave one of the two out (data.slices.samples.label_options.threshold=null)",
            )


def add_label_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Offer each field of `LabelOptions` under its flag."""
    defaults = LabelOptions()
    for option in fields(LabelOptions):
        about = option.metadata
        names = {"dest": option.name, "help": about["help"]}
        if about["parse"] is bool:
            parser.add_argument(about["flag"], action="store_true", **names)
        else:
            names["default"] = getattr(defaults, option.name)
            parser.add_argument(about["flag"], type=about["parse"], **names)


def label_options_from(namespace: argparse.Namespace) -> LabelOptions:
    """Options from what `add_label_arguments` parsed."""
    return LabelOptions(**{one.name: getattr(namespace, one.name) for one in fields(LabelOptions)})
