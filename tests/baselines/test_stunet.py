import pytest
import torch

from segkit.baselines.stunet import (
    ISOTROPIC,
    STU_NET_TINY,
    StuNet,
    StuNetBody,
    fit_strides,
    strides_for,
)
from segkit.baselines.transfer import fit_stem, without_heads


def block(*sides: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(1, channels, *sides, generator=torch.Generator().manual_seed(0))


def test_strides_of_a_plan_are_cut_or_filled_up_to_five() -> None:
    assert fit_strides([[2, 2, 2]] * 6) == ISOTROPIC
    assert fit_strides([[1, 2, 2], [2, 2, 2]])[1:3] == ((2, 2, 2), (1, 1, 1))
    assert len(fit_strides([])) == 5


@pytest.mark.parametrize("wrong", [[[2, 2]], [[2, 2, 0]]])
def test_a_wrong_stride_names_the_plan(wrong: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"nnU-Net plan \(pool_op_kernel_sizes\).*got"):
        fit_strides(wrong)


def test_strides_follow_shape_and_spacing() -> None:
    assert strides_for((128, 128, 128), (1, 1, 1)) == ISOTROPIC
    # a small block stops at four cells, thick slices wait for the plane
    assert strides_for((40, 56, 40), (1, 1, 1))[3:] == ((1, 1, 1), (1, 1, 1))
    assert strides_for((16, 256, 256), (5, 0.8, 0.8)) == (
        (1, 2, 2),
        (1, 2, 2),
        (2, 2, 2),
        (2, 2, 2),
        (1, 2, 2),
    )


@pytest.mark.parametrize("strides", [ISOTROPIC, fit_strides([[1, 2, 2], [2, 2, 2]])])
def test_levels_have_the_sizes_of_the_strides(strides: tuple[tuple[int, int, int], ...]) -> None:
    net = StuNet(STU_NET_TINY, outputs=3, strides=strides)
    levels = net(block(64, 64, 64))
    assert levels[0].shape == (1, 3, 64, 64, 64)
    assert levels[1].shape[2:] == tuple(
        side // step for side, step in zip((64, 64, 64), strides[0], strict=True)
    )


def test_a_side_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of \(32, 32, 32\), got \(32, 40, 64\)"):
        StuNetBody(STU_NET_TINY)(block(32, 40, 64))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="strides must be 5"):
        StuNetBody(STU_NET_TINY, strides=[(2, 2, 2)])
    with pytest.raises(ValueError, match=r"init must be one of .*, got 'he'"):
        StuNetBody(STU_NET_TINY, init="he")  # type: ignore[arg-type]


def test_initialisations_differ_as_the_releases_do() -> None:
    first = StuNet(STU_NET_TINY, outputs=2)
    second = StuNet(STU_NET_TINY, outputs=2, init="nnunetv2")
    assert not any(p.any() for n, p in first.named_parameters() if n.endswith("conv1.bias"))
    assert all(p.any() for n, p in second.named_parameters() if n.endswith("conv1.bias"))


@torch.no_grad()
def test_equal_channels_give_what_one_channel_gave() -> None:
    torch.manual_seed(0)
    shallow = fit_strides([[2, 2, 2]] * 3)
    source = StuNet(STU_NET_TINY, outputs=2, init="nnunetv2", strides=shallow)
    state = without_heads(source.state_dict())
    assert {name.partition(".")[0] for name in source.state_dict() if name not in state} == {
        "seg_outputs"
    }
    x = block(16, 16, 16)
    expected = source.features(x)[0]
    for compat, is_equal in ((None, True), ("authors", False)):
        body = StuNetBody(STU_NET_TINY, in_channels=3, strides=shallow)
        body.load_state_dict(fit_stem(state, body, compat))  # type: ignore[arg-type]
        found = body(x.expand(-1, 3, -1, -1, -1))[0]
        assert torch.allclose(found, expected, atol=1e-5) == is_equal
