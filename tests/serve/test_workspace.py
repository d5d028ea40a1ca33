"""What one client has: slices that are encoded before they are asked for."""

from pathlib import Path

import numpy as np
import pytest
from serving import body_volume

from segkit.client.codec import encode
from segkit.models import build
from segkit.predictors import VolumePredictor
from segkit.serve.annotation import AHEAD
from segkit.serve.images import About, from_array
from segkit.serve.messages import Points
from segkit.serve.residents import Residents
from segkit.serve.settings import Limits
from segkit.serve.workspace import Object, Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    residents = Residents()
    residents.add("tiny", VolumePredictor(build.sam_tiny(), device="cpu"))
    return Workspace(residents, Limits(), tmp_path)


def opened(space: Workspace, volume: np.ndarray, **about: object) -> Object:
    data = bytearray(b"".join(encode(volume)))
    image = from_array(data, About.model_validate(about), max_bytes=2**24)
    return space.open(space.add_image(image), None, "x")


def click(space: Workspace, item: Object, place: tuple[int, ...]) -> None:
    space.prompt(item, Points(points=(place,), labels=(1,)))
    space.render(item)


def held(space: Workspace, item: Object) -> set[int]:
    slices = space.encoded(item.image_id, item.resident).slices
    return {index for index in range(slices.view.shape[0]) if slices.holds(index)}


# a frame that is read as it is, one whose slices are counted the other way, and one along i
FRAMES = {
    "plain": (np.diag([0.8, 1.0, 3.0, 1.0]), (6, 20, 24), 0),
    "upside down": (np.diag([0.8, 1.0, -3.0, 1.0]), (2, 20, 24), 0),
    "along i": (np.diag([3.0, 1.0, 0.8, 1.0]), (6, 20, 40), 2),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_neighbours_of_a_marked_slice_are_encoded(space: Workspace, frame: str) -> None:
    affine, place, axis = FRAMES[frame]
    item = opened(space, body_volume(), affine=affine.tolist())
    click(space, item, place)
    engine = item.annotation.session._engine
    near = np.tile(np.array(place, float), (2 * AHEAD + 1, 1))
    near[:, axis] += np.arange(-AHEAD, AHEAD + 1)
    near = near[(near[:, axis] >= 0) & (near[:, axis] < item.annotation.shape[axis])]
    assert len(held(space, item)) == 1
    count = 0
    while space.look_ahead():
        count += 1
    assert held(space, item) == set(engine.lies_on(near).tolist())
    assert count == len(near) - 1
    assert not space.look_ahead()


def test_slow_models_do_not_work_ahead(space: Workspace) -> None:
    item = opened(space, body_volume(), spacing_mm=(3.0, 1.0, 0.8))
    click(space, item, (6, 20, 24))
    space.encoded(item.image_id, item.resident).slices.encode_s = 2.0
    assert not space.look_ahead()
    assert len(held(space, item)) == 1


def test_nothing_is_encoded_of_an_image_that_is_gone(space: Workspace) -> None:
    item = opened(space, body_volume(), spacing_mm=(3.0, 1.0, 0.8))
    click(space, item, (6, 20, 24))
    space.drop_image(item.image_id)
    assert not space.look_ahead()
    again = opened(space, body_volume(), spacing_mm=(3.0, 1.0, 0.8))
    click(space, again, (6, 20, 24))
    space.wipe()
    assert not space.look_ahead()


def test_a_picture_has_no_neighbours(space: Workspace) -> None:
    item = opened(space, body_volume()[6].astype(np.uint8), kind="picture")
    click(space, item, (20, 24))
    assert not space.look_ahead()
