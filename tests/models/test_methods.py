"""Parameter counts of methods, built without weights."""

import pytest

from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.methods import METHODS, building_blocks, describe


@pytest.mark.parametrize(
    ("backbone", "generator", "trainable"),
    [
        ("sam_vit_b", 63_312, 4_121_908),
        ("sam_vit_l", 116_544, 4_175_140),
        ("sam_vit_h", 186_960, 4_245_556),
    ],
)
def test_sam_adapter_as_released(backbone: str, generator: int, trainable: int) -> None:
    found = describe("sam-adapter", compat="authors", backbone=backbone)
    assert (found.name, found.backbone, found.compat) == ("sam-adapter", backbone, "authors")
    assert found.parameters.parts["adapter"] == generator
    assert found.parameters.trainable == trainable
    assert found.parameters.trainable_parts["encoder"] == 0
    assert found.parameters.trainable_parts["prompt_encoder"] == 256


def test_i_medsam_as_released() -> None:
    found = describe("i-medsam", compat="authors").parameters
    assert found.trainable == 1_595_742
    assert found.trainable_parts["prompt_encoder"] == 6_220
    assert found.parts["adapter"] == 147_456 + 9_216 + 82_992
    assert found.trainable_parts["decoder"] == 1_275_906 + 73_952
    default = describe("i-medsam").parameters
    norms_and_gates = 12 * (2 * 768 + 1)
    assert default.trainable == 1_589_522 - 9_216 + norms_and_gates


def test_dvpt_as_released_is_a_classifier() -> None:
    found = describe("dvpt", compat="authors")
    assert found.backbone == "clip_vit_b_16"
    assert found.parameters.trainable_parts == {"adapter": 202_836, "head": 2_560, "encoder": 0}
    assert describe("dvpt").parameters.parts["adapter"] == 126_836
    with pytest.raises(InputError, match="does not come on the backbone 'nano'; leave --backbone"):
        describe("dvpt", compat="authors", backbone="nano")


@pytest.mark.parametrize("name", [*METHODS, "nano", "sam_tiny", "sam_vit_b"])
def test_parts_add_up(name: str) -> None:
    found = describe(name).parameters
    assert sum(found.parts.values()) == found.total
    assert sum(found.trainable_parts.values()) == found.trainable
    assert 0 < found.trainable <= found.total


def test_counts_are_those_of_the_built_model() -> None:
    built = BUILDERS["sam_tiny"]()
    assert describe("sam_tiny").parameters.total == sum(p.numel() for p in built.parameters())


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"did you mean 'sam-adapter'\?"):
        describe("sam-adaptr")
    with pytest.raises(InputError, match="no method or backbone 'xyzzy'; available"):
        describe("xyzzy")
    with pytest.raises(InputError, match="no released form of its own"):
        describe("lora-sam", compat="authors")
    with pytest.raises(InputError, match=r"no backbone 'sam_vit'; did you mean"):
        describe("sam-adapter", backbone="sam_vit")
    with pytest.raises(InputError, match="is a backbone; it takes neither"):
        describe("nano", compat="authors")


def test_every_building_block_says_what_it_does() -> None:
    for blocks in building_blocks().values():
        assert blocks
        assert all(line.endswith(".") for line in blocks.values())
