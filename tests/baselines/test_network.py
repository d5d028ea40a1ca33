import pytest

from segkit.baselines.network import NetworkOptions, make_body, make_heads
from segkit.baselines.stunet import STU_NET_TINY
from segkit.baselines.unet import UNET_2D


def test_options_travel_as_plain_values_without_defaults() -> None:
    assert NetworkOptions().to_dict() == {}
    options = NetworkOptions(strides=((1, 2, 2),), in_channels=3)
    assert options.to_dict() == {"strides": [[1, 2, 2]], "in_channels": 3}
    assert NetworkOptions(**options.to_dict()) == options  # type: ignore[arg-type]


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="in_channels must be 1 or 3, got 2"):
        NetworkOptions(in_channels=2)
    with pytest.raises(ValueError, match="compat must be None or 'authors'"):
        NetworkOptions(compat="paper")  # type: ignore[arg-type]


def test_a_network_has_one_output_layer_per_level() -> None:
    assert [head.out_channels for head in make_heads(STU_NET_TINY, 4)] == [4] * 5
    assert len(make_heads(UNET_2D, 2)) == 1
    assert make_body(STU_NET_TINY, NetworkOptions(strides=[[2, 2, 2]])).divisor == (2, 2, 2)
