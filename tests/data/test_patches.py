from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from segkit.data.datamodule import SourceSpec
from segkit.data.loading import LoaderSpec
from segkit.data.patch_datamodule import BlockDataModule
from segkit.data.patches import Block, BlockBatch, BlockSpec, collate_blocks
from segkit.data.preprocess import InputSpec, Intensity
from segkit.data.sampling import Draw
from segkit.errors import InputError
from segkit.typing import Grid

INPUT = InputSpec(
    channels="repeat",
    patch=(4, 8, 8),
    spacing_mm=(2.0, 1.0, 1.0),
    intensity=Intensity("window", windows=((0.0, 100.0),)),
)
STILL = BlockSpec(
    zoom_probability=0, rotate_probability=0, shift_probability=0, gamma_probability=0, margin=1
)


def write(path: Path, array: np.ndarray) -> None:
    """An array (k, j, i) with slices 4 mm apart; k counts upwards, so RAS needs no turn."""
    path.parent.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(array.T, np.diag([1.0, 1.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        image = np.full((6, 12, 10), 20.0, np.float32)
        mask = np.zeros((6, 12, 10), np.uint8)
        mask[1 + number, 2:5, 6:9] = 1
        image[mask > 0] = 80
        write(folder / "images" / f"case_{number}.nii.gz", image)
        write(folder / "masks" / f"case_{number}.nii.gz", mask)
    return folder


def module(root: Path, tmp_path: Path, **options: object) -> BlockDataModule:
    return BlockDataModule(
        root,
        model_input=options.pop("model_input", INPUT),
        source=SourceSpec(layout="folders"),
        cache_dir=tmp_path / "cache",
        **options,
    )


def test_cases_are_brought_to_the_spacing_of_the_model(root: Path, tmp_path: Path) -> None:
    data = module(root, tmp_path)
    (batch,) = list(data.val_loader())
    assert batch.image.shape == (4, 3, 8, 8)
    assert batch.mask.shape == (1, 4, 8, 8)
    assert batch.grid == Grid((4, 8, 8), (2.0, 1.0, 1.0))
    # one slice of 4 mm is two of 2 mm; the block lies in the middle of what is labelled
    assert batch.mask.flatten(1).sum() == 2 * 9
    assert [int(one.sum()) for one in batch.mask[0]] == [0, 0, 9, 9]
    bright = batch.image.view(1, 4, 3, 8, 8)[:, :, 0][batch.mask > 0]
    assert bright.min() > 0.6


def test_a_draw_depends_on_seed_epoch_and_index_alone(root: Path, tmp_path: Path) -> None:
    spec = BlockSpec(per_case=3)
    samples = module(root, tmp_path, augment=spec).train_samples
    assert len(samples) == 9
    assert [samples.name(i) for i in (0, 2, 3)] == [samples.cases[i].id for i in (0, 0, 1)]
    one, two = samples.load(Draw(1, 4)), samples.load(Draw(2, 4))
    assert not torch.equal(one.image, two.image)
    again = samples.load(Draw(1, 4))
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.mask, again.mask)
    assert one.image.shape == (4, 3, 8, 8)
    assert 0 <= one.image.min() <= one.image.max() <= 1


@pytest.mark.parametrize(("positive", "expected"), [(1.0, 12), (0.0, 0)])
def test_share_of_blocks_on_labels(
    positive: float, expected: int, root: Path, tmp_path: Path
) -> None:
    spec = BlockSpec(positive=positive, negative=1 - positive, margin=1, zoom_probability=0)
    samples = module(root, tmp_path, augment=spec).train_samples
    hit = [bool(samples.load(Draw(epoch, 0)).mask.any()) for epoch in range(12)]
    assert sum(hit) == expected if positive else sum(hit) < 12


def test_blocks_larger_than_the_volume_are_filled_with_zeros(root: Path, tmp_path: Path) -> None:
    large = InputSpec(
        channels="repeat", patch=(16, 16, 16), spacing_mm=(2.0, 1.0, 1.0), intensity=INPUT.intensity
    )
    data = module(root, tmp_path, model_input=large, augment=STILL)
    block = data.train_samples.load(Draw(0, 0))
    inside = block.image[:, 0] > 0
    assert inside.sum() == 12 * 12 * 10
    assert inside.any(2).any(1).nonzero().flatten().tolist() == list(range(2, 14))
    assert block.mask.sum() == 18


def test_rotation_stays_in_the_plane(root: Path, tmp_path: Path) -> None:
    spec = BlockSpec(
        zoom_probability=0, shift_probability=0, gamma_probability=0, rotate_probability=1,
        rotate_degrees=90, positive=1, negative=0,
    )  # fmt: skip
    samples = module(root, tmp_path, augment=spec).train_samples
    for epoch in range(4):
        per_slice = samples.load(Draw(epoch, 0)).mask.flatten(1).sum(1)
        assert (per_slice > 0).sum() <= 2


def test_loader_gives_batches_of_an_epoch(root: Path, tmp_path: Path) -> None:
    data = module(root, tmp_path, augment=STILL, loader=LoaderSpec(batch_size=2))
    batches = list(data.train_loader(0))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0].image.shape == (8, 3, 8, 8)
    assert batches[0].to("cpu").mask.dtype == torch.long
    rest = list(data.train_loader(0, start=1))
    assert torch.equal(rest[0].image, batches[1].image)


def test_refusals(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="blocks need the size of a patch"):
        module(root, tmp_path, model_input=InputSpec())
    with pytest.raises(ValueError, match="a batch needs at least one block"):
        collate_blocks([])
    image, mask = torch.zeros(4, 3, 2, 2), torch.zeros(2, 3, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="4 slices and 1 names for 2 blocks of 3"):
        BlockBatch(image, mask, ("a",), torch.zeros(1), Grid((3, 2, 2)))
    assert len(collate_blocks([Block(image[:3], mask[0], "a", (1.0, 1.0, 1.0))])) == 1
    for options, message in (
        ({"positive": 0, "negative": 0}, "not both 0"),
        ({"per_case": 0}, "per_case and margin must be >= 1"),
        ({"flip_axes": [3]}, r"flip_axes must be some of .* got \[3\]"),
        ({"zoom": (2, 1)}, "zoom must be"),
        ({"quarter_turns": 2}, "quarter_turns must be between 0 and 1, got 2"),
    ):
        with pytest.raises(InputError, match=message):
            BlockSpec(**options)
