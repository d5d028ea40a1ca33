import inspect
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from segkit.data.batches import ImageBatch
from segkit.data.datamodule import SampleSpec, SliceDataModule, SourceSpec
from segkit.data.label_options import LabelOptions
from segkit.data.loading import LoaderSpec
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.readers import load
from segkit.data.sampling import Draw
from segkit.data.splits import SplitSpec
from segkit.data.transforms import AugmentSpec
from segkit.errors import DataWarning, InputError

PICTURE = InputSpec(dimensions=2, size=32, channels="rgb", intensity=Intensity("full"))
VOLUME = InputSpec(size=24, channels="neighbours")
SHAPE = (6, 10, 9)  # slices, rows, columns


def write_picture(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)).save(
        folder / "images" / f"{name}.png"
    )
    mask = np.zeros((20, 28), np.uint8)
    mask[seed % 10 :, 5 : 9 + seed // 10] = 255
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten training and three test pictures."""
    root = tmp_path / "pictures"
    for number in range(10):
        write_picture(root / "train", f"p{number:02d}", number)
    for number in range(3):
        write_picture(root / "test", f"t{number:02d}", 20 + number)
    return root


def write_volume(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(array.T, np.diag([1.0, 1.0, 3.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Five volumes of six slices; labels 1 and 2 in slices 1 to 3."""
    root = tmp_path / "volumes"
    root.mkdir()
    entries = []
    for number in range(5):
        rng = np.random.default_rng(number)
        label = np.zeros(SHAPE, np.uint8)
        label[1:4, 2 : 5 + number, 3:5] = 1
        label[2:4, 2:7, 6] = 2
        write_volume(root / "imagesTr" / f"v_{number}.nii.gz", rng.normal(size=SHAPE).astype("f4"))
        write_volume(root / "labelsTr" / f"v_{number}.nii.gz", label)
        entries.append({kind: f"{kind}sTr/v_{number}.nii.gz" for kind in ("image", "label")})
    manifest = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(manifest))
    return root


def module(root: Path, spec: InputSpec = PICTURE, **options: object) -> SliceDataModule:
    cache = root.parent / "cache"
    return SliceDataModule(root, model_input=spec, cache_dir=cache, **options)  # type: ignore[arg-type]


def ids(batches: list[ImageBatch]) -> list[str]:
    return [name for batch in batches for name in batch.case_id]


def same(one: list[ImageBatch], other: list[ImageBatch]) -> bool:
    return len(one) == len(other) and all(
        a.case_id == b.case_id
        and torch.equal(a.image, b.image)
        and torch.equal(a.mask, b.mask)
        and torch.equal(a.slice_index, b.slice_index)
        for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_holds_every_training_picture_once(pictures: Path) -> None:
    data = module(pictures, loader=LoaderSpec(batch_size=3))
    batches = list(data.train_loader(0))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert sorted(ids(batches)) == sorted(case.id for case in data.cases("train"))
    first = batches[0]
    assert first.image.shape == (3, 3, 32, 32)
    assert (first.image.dtype, first.mask.dtype) == (torch.float32, torch.int64)
    assert set(first.mask.unique().tolist()) == {0, 1}
    assert data.labels == {1: "object"}
    torch.testing.assert_close(first.spacing_mm, torch.tensor([[20 / 23, 28 / 32]] * 3))


def test_validation_holds_every_picture_in_order(pictures: Path) -> None:
    data = module(pictures, split=SplitSpec(fold=1), augment=AugmentSpec())
    batches = list(data.val_loader())
    assert ids(batches) == [case.id for case in data.cases("val")]
    assert same(batches, list(data.val_loader()))
    assert not set(ids(batches)) & {case.id for case in data.cases("train")}


def test_no_batch_comes_from_the_test_side(pictures: Path) -> None:
    data = module(pictures)
    seen = set(ids(list(data.train_loader(0)) + list(data.val_loader())))
    tests = {case.id for case in data.cases("test")}
    assert len(tests) == 3
    assert len(seen) == 10
    assert not seen & tests
    assert not [name for name in dir(data) if "test" in name]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(pictures: Path, workers: int) -> None:
    augment = AugmentSpec(flip_rows=True, intensity_probability=0.5)
    alone = module(pictures, augment=augment, loader=LoaderSpec(batch_size=3))
    helped = module(pictures, augment=augment, loader=LoaderSpec(batch_size=3, workers=workers))
    for epoch in (0, 1):
        assert same(list(alone.train_loader(epoch)), list(helped.train_loader(epoch)))


def test_samples_travel_to_workers_that_are_not_forked(pictures: Path) -> None:
    samples = module(pictures, augment=AugmentSpec(flip_rows=True)).train_samples
    copy = pickle.loads(pickle.dumps(samples))
    for draw in (Draw(0, 1), Draw(5, 0)):
        assert torch.equal(copy.load(draw).image, samples.load(draw).image)
        assert copy.name(draw.index) == samples.name(draw.index)


def test_epochs_and_seeds_differ(pictures: Path) -> None:
    data = module(pictures, augment=AugmentSpec())
    other = module(pictures, augment=AugmentSpec(), loader=LoaderSpec(seed=1))
    first = list(data.train_loader(0))
    assert same(first, list(data.train_loader(0)))
    assert not same(first, list(data.train_loader(1)))
    assert not same(first, list(other.train_loader(0)))


def test_a_resumed_epoch_is_the_rest_of_the_unbroken_one(pictures: Path) -> None:
    options = {"augment": AugmentSpec(), "loader": LoaderSpec(batch_size=2)}
    whole = list(module(pictures, **options).train_loader(3))
    rest = list(module(pictures, **options).train_loader(3, start=2))
    assert same(whole[2:], rest)


def test_processes_share_the_slices(pictures: Path) -> None:
    data = module(pictures)
    train = [ids(list(data.train_loader(0, rank=rank, ranks=2))) for rank in range(2)]
    val = [ids(list(data.val_loader(rank=rank, ranks=2))) for rank in range(2)]
    assert sorted(train[0] + train[1]) == sorted(case.id for case in data.cases("train"))
    assert sorted(val[0] + val[1]) == sorted(case.id for case in data.cases("val"))


def test_slices_of_a_volume_equal_the_view(volumes: Path) -> None:
    data = module(volumes, VOLUME)
    assert data.labels == {1: "a", 2: "b"}
    (case,) = data.cases("val")
    view = SliceView(load(case.image[0]), VOLUME)
    batches = list(data.val_loader())
    assert torch.cat([batch.slice_index for batch in batches]).tolist() == list(range(6))
    images = torch.cat([batch.image for batch in batches]).numpy()
    # the first and the last slice show how neighbours end
    for index in range(6):
        assert np.abs(images[index] - view.image(index)).max() < 1e-5
    assert batches[0].mask[2].unique().tolist() == [0, 1, 2]
    torch.testing.assert_close(batches[0].spacing_mm[0], torch.tensor([10 / 24, 9 / 22]))


@pytest.mark.parametrize(("empty", "count"), [("keep", 24), ("drop", 12), (0.5, 18)])
def test_empty_slices_follow_the_rule_in_training_only(
    volumes: Path, empty: float, count: int
) -> None:
    data = module(volumes, VOLUME, samples=SampleSpec(empty=empty))
    assert len(data.train_samples) == count
    assert len(data.val_samples) == 6


def test_labels_can_be_merged(volumes: Path) -> None:
    options = SampleSpec(label_options=LabelOptions(mapping={2: 1}))
    batch = next(iter(module(volumes, VOLUME, samples=options).train_loader(0)))
    assert batch.mask.unique().tolist() == [0, 1]


def test_cases_without_any_label_are_counted(volumes: Path) -> None:
    data = module(volumes, VOLUME)
    case = data.cases("train")[0]
    assert case.label is not None
    write_volume(case.label, np.zeros(SHAPE, np.uint8))
    with pytest.warns(DataWarning, match=rf"1 of 4 training cases have no .* voxel \({case.id}\)"):
        data.prepare()


def test_nothing_left_to_train_on_is_refused(volumes: Path) -> None:
    for path in (volumes / "labelsTr").iterdir():
        write_volume(path, np.zeros(SHAPE, np.uint8))
    with pytest.warns(DataWarning, match="byte-identical labels"):
        data = module(volumes, VOLUME, samples=SampleSpec(empty="drop"))
    expected = "no training slice is left with empty='drop'; check the labels"
    with pytest.warns(DataWarning, match="4 of 4"), pytest.raises(InputError, match=expected):
        data.prepare()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_stops_the_run_and_is_named(pictures: Path, workers: int) -> None:
    data = module(pictures, loader=LoaderSpec(workers=workers))
    path = data.cases("train")[2].image[0]
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(InputError, match=path.name):
        data.prepare()


def test_a_damaged_or_missing_file_can_be_left_out(pictures: Path) -> None:
    data = module(pictures, loader=LoaderSpec(on_error="skip", skip_limit=2))
    damaged, missing = data.cases("train")[2:4]
    damaged.image[0].write_bytes(b"no picture")
    missing.image[0].unlink()
    with pytest.warns(DataWarning, match="is left out"):
        batches = list(data.train_loader(0))
    assert data.skipped == (damaged.id, missing.id)
    assert set(ids(batches)) == {c.id for c in data.cases("train")} - set(data.skipped)


def test_too_many_damaged_files_stop_the_run(pictures: Path) -> None:
    data = module(pictures, loader=LoaderSpec(on_error="skip", skip_limit=1))
    for case in data.cases("train")[2:4]:
        case.image[0].unlink()
    with (
        pytest.warns(DataWarning, match="is left out"),
        pytest.raises(InputError, match="2 cases could not be read, allowed are 1"),
    ):
        data.prepare()


def test_no_readable_case_on_a_side_is_refused(pictures: Path) -> None:
    data = module(pictures, loader=LoaderSpec(on_error="skip"))
    for case in data.cases("val"):
        case.image[0].unlink()
    with (
        pytest.warns(DataWarning, match="is left out"),
        pytest.raises(InputError, match="no case of the val side can be read"),
    ):
        data.prepare()


def test_a_cache_damaged_between_epochs_heals(pictures: Path) -> None:
    data = module(pictures)
    before = list(data.train_loader(0))
    for entry in (pictures.parent / "cache" / "stacks").iterdir():
        entry.write_bytes(entry.read_bytes()[:100])
    with pytest.warns(DataWarning, match=r"cache entry of case 'p\d\d' is damaged \(slice 0"):
        after = list(data.train_loader(0))
    assert same(before, after)
    assert same(before, list(data.train_loader(0)))


def test_a_damaged_cache_whose_source_is_gone_names_the_file(pictures: Path) -> None:
    data = module(pictures)
    data.prepare()
    shutil.rmtree(pictures.parent / "cache" / "stacks")
    case = data.cases("val")[0]
    case.image[0].unlink()
    with (
        pytest.warns(DataWarning, match="is damaged"),
        pytest.raises(InputError, match=case.image[0].name),
    ):
        list(data.val_loader())


def test_the_fingerprint_follows_content_and_split_but_not_the_place(pictures: Path) -> None:
    first = module(pictures).fingerprint
    assert len(first) == 64
    moved = pictures.rename(pictures.parent / "moved")
    assert module(moved).fingerprint == first
    assert module(moved, split=SplitSpec(seed=3)).fingerprint != first
    write_picture(moved / "train", "p03", 77)
    assert module(moved).fingerprint != first


def test_a_limit_keeps_a_few_cases_of_each_side(pictures: Path) -> None:
    data = module(pictures, samples=SampleSpec(limit=1))
    assert (len(data.cases("train")), len(data.cases("val"))) == (1, 1)
    assert len(ids(list(data.train_loader(0)))) == 1


def test_several_images_need_a_choice(volumes: Path) -> None:
    path = volumes / "dataset.json"
    manifest = json.loads(path.read_text()) | {"modality": {"0": "T2", "1": "ADC"}}
    path.write_text(json.dumps(manifest))
    expected = r"each case has 2 images \(T2, ADC\), got channel=None; choose one by number"
    with pytest.raises(InputError, match=expected):
        module(volumes, VOLUME)
    with pytest.raises(InputError, match="got channel='DWI'"):
        module(volumes, VOLUME, samples=SampleSpec(channel="DWI"))
    # one file holds both: the second one along its fourth axis
    for file in (volumes / "imagesTr").iterdir():
        array = np.asarray(nibabel.load(file).dataobj)
        both = nibabel.Nifti1Image(np.stack([array, 7 - array], -1), np.diag([1.0, 1.0, 3.0, 1.0]))
        both.header.set_xyzt_units("mm")
        nibabel.save(both, file)
    one, other = (
        next(iter(module(volumes, VOLUME, samples=SampleSpec(channel=c)).val_loader()))
        for c in ("T2", 1)
    )
    middle = (slice(None), 1, slice(0, 24), slice(0, 22))
    torch.testing.assert_close(one.image[middle], 1 - other.image[middle], atol=1e-3, rtol=0)


def test_label_names_may_come_from_json(pictures: Path) -> None:
    assert module(pictures, source=SourceSpec(labels={"1": "polyp"})).labels == {1: "polyp"}


def test_sample_spec_faults() -> None:
    with pytest.raises(InputError, match="limit must be >= 1, got 0"):
        SampleSpec(limit=0)
    with pytest.raises(InputError, match="empty='some' is no rule"):
        SampleSpec(empty="some")  # type: ignore[arg-type]


def test_the_constructor_stays_small() -> None:
    assert len(inspect.signature(SliceDataModule).parameters) <= 8


@pytest.mark.filterwarnings("ignore::segkit.errors.DataWarning")
@pytest.mark.parametrize(
    ("name", "source", "values"),
    [
        ("3d/Task04_Hippocampus", SourceSpec(group_by="pairs"), {0, 1, 2}),
        ("2d/kvasir_polyp", SourceSpec(), {0, 1}),
        ("2d/chase_db1_vessels", SourceSpec(label_folder="masks_observer2"), {0, 1}),
        ("2d/hc18_fetal_head", SourceSpec(), {0, 1}),
        ("video/sunnybrook_cine_lv", SourceSpec(), {0, 1}),
    ],
)
def test_real_data(
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    source: SourceSpec,
    values: set[int],
) -> None:
    is_volume = name.startswith("3d")
    data = SliceDataModule(
        shared_data(name),
        model_input=InputSpec(size=64) if is_volume else PICTURE,
        source=source,
        samples=SampleSpec(limit=3, empty="drop"),
        augment=AugmentSpec(),
        cache_dir=tmp_path,
    )
    batches = [*data.train_loader(0), *data.val_loader()]
    assert set(torch.cat([batch.mask.flatten() for batch in batches]).tolist()) == values
    assert all(batch.image.min() >= 0 and batch.image.max() <= 1 for batch in batches)
    groups = [{case.group for case in data.cases(side)} for side in ("train", "val", "test")]  # type: ignore[arg-type]
    if data.dataset.is_grouped:
        assert not groups[0] & groups[1]
        assert not (groups[0] | groups[1]) & groups[2]


def test_nuclei_keep_their_ids(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("2d/dsb2018_nuclei")
    samples = SampleSpec(limit=2, instances=True)
    data = SliceDataModule(
        root, model_input=InputSpec(2, 256, "rgb"), samples=samples, cache_dir=tmp_path
    )
    batch = next(iter(data.val_loader()))
    for mask, case in zip(batch.mask, data.cases("val"), strict=True):
        assert case.label is not None
        stored = np.asarray(Image.open(case.label))
        assert mask.max() > 5
        assert set(mask.unique().tolist()) <= set(np.unique(stored).tolist())
