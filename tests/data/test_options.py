import argparse

import pytest

from segkit.data.label_options import LabelOptions, add_label_arguments, label_options_from
from segkit.data.options import ReadOptions, add_read_arguments, read_options_from
from segkit.errors import InputError


def parsed(*arguments: str) -> tuple[ReadOptions, LabelOptions]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_read_arguments(parser)
    add_label_arguments(parser.add_argument_group("labels"))
    found = parser.parse_args(list(arguments))
    return read_options_from(found), label_options_from(found)


def test_defaults_of_the_command_line_are_those_of_the_library() -> None:
    assert parsed() == (ReadOptions(), LabelOptions())


def test_every_flag_reaches_its_field() -> None:
    read, label = parsed(
        "--geometry", "qform", "--spacing", "0.8,0.9,3", "--frame", "2", "--nan", "fill=-1000",
        "--luminance", "--complex", "phase", "--max-gb", "0.5", "--resample-labels", "--one-hot",
        "--priority", "tumour, liver", "--colours", "#ff0000=1,00ff00=2", "--threshold", "127",
        "--map-labels", "1=2,3=0", "--ignore-value", "-1",
    )  # fmt: skip
    assert read == ReadOptions("qform", (0.8, 0.9, 3.0), 2, -1000.0, True, "phase", max_gb=0.5)
    assert label.resample
    assert label.one_hot
    assert label.priority == ("tumour", "liver")
    assert label.colours == {(255, 0, 0): 1, (0, 255, 0): 2}
    assert label.mapping == {1: 2, 3: 0}
    assert (label.threshold, label.ignore) == (127.0, -1)
    assert parsed("--instances")[1] == LabelOptions(instances=True)  # excludes a threshold


@pytest.mark.parametrize(
    "arguments",
    [
        ("--spacing", "1,2"), ("--nan", "fill=x"), ("--geometry", "both"), ("--colours", "red=1"),
        ("--colours", "ff00=1"), ("--map-labels", "1:2"),
    ],
)  # fmt: skip
def test_unusable_flags_are_refused_by_the_parser(arguments: tuple[str, ...]) -> None:
    with pytest.raises(argparse.ArgumentError, match=arguments[0]):
        parsed(*arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"geometry": "both"}, "geometry must be one of"),
        ({"complex_part": "imag"}, "complex_part must be one of"),
        ({"spacing": (1, 2, 0)}, "spacing must be three numbers > 0"),
        ({"spacing": (1, 2)}, "spacing must be three numbers > 0"),
        ({"frame": -1}, "frame counts from 0"),
        ({"nan": float("inf")}, "must be finite"),
        ({"max_gb": 0}, "max_gb must be > 0"),
    ],
)
def test_unusable_values_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**fields)
