import pytest
import torch
from torch import Tensor

from segkit.errors import InputError
from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.prompts.sampler import PointSampler
from segkit.prompts.simulate import scattered_clicks
from segkit.typing import BackboneSpec, Features, Grid, Prompts

GRID = Grid((8, 32, 32))
POINT = [4.0, 20.0, 9.0]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build.sam3d_tiny().eval()


@pytest.fixture(scope="module")
def features(segmenter: Segmenter) -> Features:
    image = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return segmenter.encode(image, GRID)


def marks(*labels: int, points: list[list[float]] | None = None) -> Prompts:
    chosen = points or [POINT, [6.0, 8.0, 25.0]][: len(labels)]
    return Prompts(torch.tensor([chosen]), torch.tensor([labels]), image_index=torch.tensor([1]))


def logits(segmenter: Segmenter, features: Features, prompts: Prompts) -> Tensor:
    with torch.no_grad():
        return segmenter.decode(features, prompts).logits


def test_labels_and_positions_matter(segmenter: Segmenter, features: Features) -> None:
    first = logits(segmenter, features, marks(1))
    assert first.shape == (1, 1, 8, 32, 32)
    assert not torch.equal(first, logits(segmenter, features, marks(0)))
    assert not torch.equal(first, logits(segmenter, features, marks(1, points=[[1.0, 1.0, 1.0]])))
    box = logits(segmenter, features, marks(2, 3))
    assert not torch.equal(box, logits(segmenter, features, marks(1, 1)))


def test_clicks_are_heeded_before_any_training(segmenter: Segmenter, features: Features) -> None:
    def dense(prompts: Prompts) -> Tensor:
        with torch.no_grad():
            return segmenter.prompt_encoder.tokens(features, prompts).dense

    clicked = (0, slice(None), 1, 5, 2)  # the cell of POINT
    here = dense(marks(1))[clicked]
    for other in (marks(1, points=[[6.0, 8.0, 25.0]]), marks(0)):
        assert (here - dense(other)[clicked]).norm() > 0.2 * here.norm()


def test_padding_is_not_looked_at(segmenter: Segmenter, features: Features) -> None:
    padded = logits(segmenter, features, marks(1, -1))
    torch.testing.assert_close(padded, logits(segmenter, features, marks(1)), rtol=1e-4, atol=1e-5)


def test_objects_do_not_see_each_other(segmenter: Segmenter, features: Features) -> None:
    points = torch.tensor([[POINT], [[6.0, 8.0, 25.0]], [[0.0, 0.0, 0.0]]])
    index = torch.tensor([1, 0, 1])
    together = Prompts(points, torch.tensor([[1], [1], [0]]), image_index=index)
    found = logits(segmenter, features, together)
    for row in range(3):
        alone = Prompts(points[[row]], together.labels[[row]], image_index=index[[row]])
        one = logits(segmenter, features, alone)
        torch.testing.assert_close(found[[row]], one, rtol=1e-4, atol=1e-4)


def test_an_earlier_mask_changes_the_answer(segmenter: Segmenter, features: Features) -> None:
    click = marks(1)
    mask = torch.full((1, 1, 8, 32, 32), -6.0)
    mask[:, :, 2:6, 8:24, 8:24] = 6
    refined = Prompts(click.points, click.labels, mask, click.image_index)
    assert not torch.equal(logits(segmenter, features, refined), logits(segmenter, features, click))


def test_sampling_reads_the_feature_under_the_click() -> None:
    spec = BackboneSpec("x", 16, 4, (), 8, 4, dimensions=3)
    encoder = PointSampler(spec, heads=2)
    maps = torch.zeros(1, 8, 2, 4, 4)
    maps[0, :, 1, 2, 3] = 1
    seen: list[Tensor] = []
    encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    # the middle of that cell of four voxels; padding adds no label
    click = Prompts(torch.tensor([[[5.5, 9.5, 13.5]]]), torch.tensor([[-1]]))
    encoder.tokens(Features((maps,), Grid((8, 16, 16))), click)
    torch.testing.assert_close(seen[0], torch.ones(1, 1, 8))


def test_refusals(segmenter: Segmenter, features: Features) -> None:
    nothing = Prompts(torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long))
    one = features[:1]
    with pytest.raises(InputError, match="no prompt: neither a point, a box nor a mask"):
        segmenter.decode(one, nothing)
    wrong = Prompts(
        torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, 4, 4)
    )
    with pytest.raises(
        InputError, match=r"mask prompts must be logits of shape \(1, 1, 8, 32, 32\)"
    ):
        segmenter.decode(one, wrong)
    with pytest.raises(InputError, match="needs a point, a box or a mask"):
        segmenter.prompt_encoder.empty(1, (8, 32, 32))
    released = PointSampler(segmenter.spec, compat="authors")
    masked = Prompts(wrong.points, wrong.labels, torch.zeros(1, 1, 8, 32, 32))
    with pytest.raises(InputError, match="takes points only, got a mask"):
        released.tokens(one, masked)
    with pytest.raises(ValueError, match="compat must be None or 'authors', got 'paper'"):
        PointSampler(segmenter.spec, compat="paper")
    with pytest.raises(ValueError, match="reach must be > 0 cells, got 0"):
        PointSampler(segmenter.spec, reach=0)


def test_scattered_clicks_tell_the_truth() -> None:
    masks = torch.zeros(2, 4, 6, 5, dtype=torch.bool)
    masks[0, 1:3, 2:5, 1:4] = True
    generator = torch.Generator().manual_seed(0)
    clicks = scattered_clicks(masks, generator, inside=10, anywhere=20)
    assert clicks.points.shape == (2, 30, 3)
    for row in range(2):
        for point, label in zip(clicks.points[row].long(), clicks.labels[row], strict=True):
            if label >= 0:
                assert masks[row][tuple(point)] == bool(label)
    assert clicks.labels[0, :10].tolist() == [1] * 10
    assert clicks.labels[1, :10].tolist() == [-1] * 10
