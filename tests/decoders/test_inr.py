from functools import partial

import pytest
import torch
from torch import Tensor, nn

from segkit.decoders import InrClassDecoder, InrDecoder
from segkit.decoders.inr import centres, expected_iou
from segkit.decoders.inr_field import (
    CODE,
    ImplicitField,
    Places,
    Samples,
    coordinate_code,
    unmasking,
)
from segkit.errors import InputError
from segkit.kernels.field import sampled
from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Grid, Prompts, PromptTokens

BOX = Prompts(torch.tensor([[[0.0, 8.0, 8.0], [0.0, 40.0, 50.0]]]), torch.tensor([[2, 3]]))


def images(count: int = 1, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def model(**options: object) -> Segmenter:
    torch.manual_seed(0)
    segmenter = build.sam_tiny(decoder=partial(InrDecoder, width=8, **options))
    return segmenter.eval()


def net(compat: str | None = None, share: float = 0.25, width: int = 8) -> ImplicitField:
    torch.manual_seed(0)
    return ImplicitField(4, 5, width=width, share=share, compat=compat).eval()  # type: ignore[arg-type]


def samples(objects: int = 2, points: int = 40) -> Samples:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(objects, points, 4, generator=generator)
    return Samples(features, torch.randn(points, 5, generator=generator))


def test_the_uncertainty_is_what_many_dropout_passes_estimate() -> None:
    field, given = net(), samples(1, 6)
    trunk = field._trunk(given)
    head = field.coarse_heads[0]
    generator = torch.Generator().manual_seed(0)
    keep = (torch.rand(20_000, *trunk.shape, generator=generator) < 0.5) * 2.0
    drawn = (trunk * keep) @ head.weight[0] + head.bias[0]
    logits = field.coarse(given).logits
    p = logits.sigmoid()[:, 0]
    expected = p * (1 - p) * drawn.std(dim=0)
    torch.testing.assert_close(field.coarse(given).uncertainty[:, 0], expected, rtol=0.03, atol=0)


def test_the_released_form_is_never_uncertain_at_evaluation() -> None:
    released, default = (net(compat).coarse(samples()).uncertainty for compat in ("authors", None))
    assert not released.any()
    assert (default > 0).all()
    assert len(default.unique()) > 70


def test_the_least_certain_points_are_refined_and_no_others() -> None:
    field, given = net(), samples()
    coarse, fine = field(given)
    scores = field.coarse(given).uncertainty
    changed = coarse != fine
    assert changed.sum(-1).tolist() == [[10], [10]]
    for row in range(2):
        assert scores[row][changed[row]].min() > scores[row][~changed[row]].max()


def test_the_first_layer_is_the_linear_layer_it_stands_for() -> None:
    field, given = net(), samples()
    shared = given.shared.expand(2, -1, -1)
    plain = field.coarse_trunk(torch.cat([given.features, shared], -1).flatten(0, 1))
    torch.testing.assert_close(field._trunk(given).flatten(0, 1), plain)


def test_training_runs_the_trunk_once_and_the_released_form_twice() -> None:
    counts = []
    for compat in (None, "authors"):
        field = net(compat).train()
        field(samples())
        counts.append(int(field.coarse_trunk[1].num_batches_tracked))
    assert counts == [1, 2]


def test_the_released_form_chooses_over_the_batch() -> None:
    field, given = net("authors").train(), samples()
    torch.manual_seed(0)
    coarse, fine = field(given)
    assert (coarse != fine).sum() == 20


def test_a_value_depends_on_its_position_only() -> None:
    segmenter = model(share=0.3)
    features = segmenter.encode(images())
    points = 2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) - 1
    together = segmenter.query(features, points, BOX)
    apart = [segmenter.query(features, part, BOX) for part in points.split(7)]
    torch.testing.assert_close(together, torch.cat(apart, dim=2), rtol=1e-4, atol=1e-5)


def test_the_field_at_pixel_centres_is_the_decoded_mask() -> None:
    segmenter = model(share=0.3)
    features = segmenter.encode(images())
    logits = segmenter.decode(features, BOX).logits
    assert logits.shape == (1, 1, 32, 48)
    found = segmenter.query(features, centres((32, 48)), BOX).unflatten(2, (32, 48))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    again = segmenter.decode(features, BOX, size=(32, 48)).logits
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-5)


def test_an_area_is_the_first_part_of_the_whole() -> None:
    segmenter = model()
    features = segmenter.encode(images())
    whole = segmenter.decode(features, BOX, size=(40, 60)).logits
    part = segmenter.decode(features, BOX, size=(20, 45), area=(0.5, 0.75)).logits
    torch.testing.assert_close(part, whole[:, :, :20, :45], rtol=1e-3, atol=1e-4)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = model()
    features = segmenter.encode(images())
    whole = segmenter.decode(features, BOX, size=(50, 70)).logits
    monkeypatch.setattr("segkit.decoders.inr_field._CHUNK", 100)
    torch.testing.assert_close(
        segmenter.decode(features, BOX, size=(50, 70)).logits, whole, rtol=1e-4, atol=1e-5
    )


def test_sampling_is_what_interpolation_does() -> None:
    maps = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(maps, size=(7, 9), mode="bilinear")
    found = sampled(maps, centres((7, 9)))
    torch.testing.assert_close(found.transpose(1, 2).unflatten(2, (7, 9)), expected)
    volume = torch.rand(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(volume, size=(7, 9, 3), mode="trilinear")
    found = sampled(volume, centres((7, 9, 3)))
    torch.testing.assert_close(found.transpose(1, 2).unflatten(2, (7, 9, 3)), expected)


def test_classes_have_heads_of_their_own() -> None:
    torch.manual_seed(0)
    segmenter = build.sam_tiny(decoder=partial(InrClassDecoder, width=8), classes=3).eval()
    features = segmenter.encode(images(2))
    assert segmenter.decode(features, size=(30, 20)).logits.shape == (2, 3, 30, 20)
    before = segmenter.query(features, centres((8, 8)))
    with torch.no_grad():
        segmenter.decoder.field_net.coarse_heads[1].bias += 1
        segmenter.decoder.field_net.fine_heads[1][-1].bias += 1
    changed = (segmenter.query(features, centres((8, 8))) - before).abs().amax((0, 2)) > 1e-3
    assert changed.tolist() == [False, True, False]


def test_sam2_features_take_part_at_every_level() -> None:
    torch.manual_seed(0)
    segmenter = build.sam2_test(decoder=partial(InrDecoder, width=8)).eval()
    features = segmenter.encode(images())
    logits = segmenter.decode(features, BOX, size=(50, 75)).logits
    assert logits.shape == (1, 1, 50, 75)
    for level in range(3):
        noise = torch.Generator().manual_seed(2)
        levels = list(features.levels)
        levels[level] = torch.randn(levels[level].shape, generator=noise)
        other = segmenter.decode(Features(tuple(levels), features.grid), BOX, size=(50, 75))
        assert not other.logits.allclose(logits, atol=1e-4)


def test_volumes_have_three_dimensional_fields() -> None:
    decoder = model().decoder
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(1, 32, 3, 4, 5, generator=generator)
    features = Features((level,), Grid((3, 32, 40)))
    tokens = PromptTokens(
        torch.randn(2, 2, 32, generator=generator),
        torch.zeros(2, 32, 4, 5),
        torch.randn(1, 32, 4, 5, generator=generator),
    )
    logits = decoder(features, tokens).logits
    assert logits.shape == (2, 1, 3, 16, 20)
    field = decoder.field(features, tokens)
    torch.testing.assert_close(field.render((3, 16, 20)), logits, rtol=1e-4, atol=1e-5)
    assert field.render((7, 9, 11)).shape == (2, 1, 7, 9, 11)
    deep = field.query(torch.tensor([[-0.5, 0.1, 0.2], [0.5, 0.1, 0.2]]))
    assert not deep[..., 0].allclose(deep[..., 1], atol=1e-5)


def test_the_volumetric_lift_has_fields() -> None:
    torch.manual_seed(0)
    grid = Grid((10, 32, 32))
    volume = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    automatic = build.sam3d_tiny(decoder=partial(InrClassDecoder, width=8), classes=2).eval()
    features = automatic.encode(volume, grid)
    depth, rows, cols = features.levels[-1].shape[2:]
    assert automatic.decode(features).logits.shape == (1, 2, depth, rows, cols)
    assert automatic.decode(features, size=(10, 32, 40)).logits.shape == (1, 2, 10, 32, 40)
    prompted = build.sam3d_tiny(decoder=partial(InrDecoder, width=8)).eval()
    features = prompted.encode(volume, grid)
    maps = []
    for place in (4.0, 24.0):
        click = Prompts(torch.tensor([[[2.0, place, place]]]), torch.tensor([[1]]))
        maps.append(prompted.decode(features, click, size=(10, 32, 32)).logits)
    assert maps[0].shape == (1, 1, 10, 32, 32)
    assert not maps[0].allclose(maps[1], atol=1e-5)


def test_published_frequencies_are_octaves() -> None:
    code = coordinate_code(torch.tensor([[0.0, 0.25, 0.5]]))[0]
    torch.testing.assert_close(code[10:13], torch.tensor([0.5**0.5, 1.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(code[20:23], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    assert code[-3:].tolist() == [0.0, 0.25, 0.5]


def test_frequencies_are_let_in_from_low_to_high() -> None:
    weights = unmasking(torch.tensor(0.35)).view(-1)
    assert weights.shape == (CODE,)
    per_axis = weights[:30].view(3, 10)
    torch.testing.assert_close(per_axis[0, :5], torch.tensor([1, 1, 1, 0.5, 0]))
    assert per_axis.equal(per_axis[:1].expand(3, -1))
    assert weights[-3:].tolist() == [1, 1, 1]
    assert unmasking(torch.tensor(1.0)).all()
    released = unmasking(torch.tensor(0.05), compat="authors")
    assert released.tolist() == [1.0] * 6 + [0.0] * 57


def test_progress_follows_the_epochs_and_is_kept_in_files() -> None:
    decoder = model(unmask_epochs=4).decoder
    seen = []
    for epoch in (0, 1, 3, 9):
        decoder.begin_epoch(epoch)
        seen.append(float(decoder.progress))
    assert seen == [0.25, 0.5, 1, 1]
    assert "progress" in decoder.state_dict()


def test_only_the_field_and_the_upscaling_are_trained() -> None:
    decoder = model().decoder
    trained = {name.split(".")[0] for name, p in decoder.named_parameters() if p.requires_grad}
    assert trained == {"field_net", "output_upscaling"}
    everything = model(trained="all").decoder
    assert all(p.requires_grad for p in everything.parameters())


def test_the_expected_iou_of_sure_masks_is_one() -> None:
    logits = torch.tensor([[[[50.0, -50.0], [50.0, 50.0]]], [[[0.1, 0.1], [-0.1, -0.1]]]])
    sure, unsure = expected_iou(logits)[:, 0].tolist()
    assert sure == pytest.approx(1)
    assert 0.3 < unsure < 0.4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 1}, "width must be >= 2, got 1"),
        ({"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ({"unmask_epochs": 0}, "unmask_epochs must be >= 1, got 0"),
        ({"trained": "none"}, r"trained must be one of \('field', 'all'\), got 'none'"),
        ({"compat": "paper"}, "compat must be None or 'authors', got 'paper'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build.sam_tiny(decoder=partial(InrDecoder, **options))


def test_fields_of_other_decoders_and_no_classes_are_refused() -> None:
    segmenter = build.sam_tiny()
    with pytest.raises(InputError, match="MaskDecoder decodes masks of one resolution only; use"):
        segmenter.query(segmenter.encode(images()), centres((2, 2)), BOX)
    with pytest.raises(ValueError, match="classes must be >= 1 without the background, got 0"):
        build.sam_tiny(decoder=InrClassDecoder, classes=0)


def places(objects: int, points: int, *, is_flat: bool = True) -> Places:
    generator = torch.Generator().manual_seed(5)
    size = (6, 5) if is_flat else (3, 4, 5)
    cells = torch.randn(objects, 4, *size, generator=generator)
    positions = torch.randn(1, 2, *(side // 2 for side in size), generator=generator)
    where = 2 * torch.rand(points, len(size), generator=generator) - 1
    codes = torch.randn(points, 3, generator=generator)
    return Places(cells, positions, where, codes, impl="triton")


@pytest.mark.parametrize("is_flat", [True, False])
def test_fused_first_layers_change_nothing(is_flat: bool) -> None:
    pytest.importorskip("triton", reason="extra [triton]")
    field = net(share=0.5)
    if torch.cuda.is_available():
        pytest.skip("these tensors lie on the CPU, where only the interpreter runs kernels")
    where = places(2, 9, is_flat=is_flat)
    samples = Samples(where.features, where.shared)
    with torch.no_grad():
        torch.testing.assert_close(field(where), field(samples), rtol=1e-4, atol=1e-5)
        threshold = field.threshold(samples)
        torch.testing.assert_close(field.threshold(where), threshold, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            field.at(where, 0 * threshold), field.at(samples, 0 * threshold), rtol=1e-4, atol=1e-5
        )
    field.train()
    torch.manual_seed(0)
    fused = torch.autograd.grad(field(where)[1].sum(), field.fine_trunk.parameters())
    torch.manual_seed(0)
    usual = torch.autograd.grad(field(samples)[1].sum(), field.fine_trunk.parameters())
    torch.testing.assert_close(fused, usual, rtol=1e-3, atol=1e-4)


def test_places_are_read_as_samples_without_a_device() -> None:
    where = places(1, 4)
    assert not net().is_fused(where)
    parts = [part.points for part in where.chunks(3)]
    assert [len(part) for part in parts] == [3, 1]
    torch.testing.assert_close(torch.cat(parts), where.points)
