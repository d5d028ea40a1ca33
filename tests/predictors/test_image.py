"""Pictures, and the calls of the official predictor."""

import threading

import numpy as np
import pytest
import torch

from segkit.errors import InputError
from segkit.models import build
from segkit.predictors import ImagePredictor


@pytest.fixture(scope="module")
def predictor() -> ImagePredictor:
    torch.manual_seed(0)
    return ImagePredictor(build.sam_tiny(), device="cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rows, columns = np.indices((40, 60))
    inside = ((rows - 15) / 8) ** 2 + ((columns - 40) / 12) ** 2 < 1
    return np.where(inside[..., None], (200, 90, 80), (60, 70, 90)).astype(np.uint8)


def test_session_speaks_row_and_column(predictor: ImagePredictor, picture: np.ndarray) -> None:
    session = predictor.open(picture).add_points([(15, 40)], [1]).add_box(((7, 28), (24, 53)))
    assert session.mask().shape == (40, 60)
    assert list(session.scores()) == [0]


def test_grey_and_single_slice_inputs_work(predictor: ImagePredictor, picture: np.ndarray) -> None:
    assert predictor.open(picture[..., 0]).add_points([(15, 40)], [1]).mask().shape == (40, 60)


def test_official_calls_take_x_y(predictor: ImagePredictor, picture: np.ndarray) -> None:
    predictor.set_image(picture)
    masks, iou, low = predictor.predict(np.array([[40, 15]]), np.array([1]))
    assert masks.shape == (3, 40, 60)
    assert masks.dtype == np.bool_
    assert iou.shape == (3,)
    session = predictor.open(picture).add_points([(15, 40)], [1])
    np.testing.assert_array_equal(masks[iou.argmax()], session.mask())
    again, _, _ = predictor.predict(
        box=np.array([28, 7, 52, 23]), mask_input=low[:1], multimask_output=False
    )
    assert again.shape == (1, 40, 60)


def test_image_of_one_thread_is_not_seen_by_another(
    predictor: ImagePredictor, picture: np.ndarray
) -> None:
    predictor.set_image(picture)
    caught: list[str] = []

    def work() -> None:
        with pytest.raises(InputError, match="no image is set") as error:
            predictor.predict(np.array([[40, 15]]), np.array([1]))
        caught.append(str(error.value))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1
    predictor.reset_image()
    with pytest.raises(InputError, match="call set_image"):
        predictor.get_image_embedding()


def test_points_and_labels_belong_together(predictor: ImagePredictor, picture: np.ndarray) -> None:
    predictor.set_image(picture)
    with pytest.raises(InputError, match="belong together"):
        predictor.predict(np.array([[40, 15]]))
    with pytest.raises(InputError, match="one label, 1 or 0, per point"):
        predictor.predict(np.array([[40, 15]]), np.array([5]))


def test_volume_is_refused_with_the_right_predictor(predictor: ImagePredictor) -> None:
    from segkit.geometry import Geometry

    geometry = Geometry.from_spacing((3, 20, 20), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"volume of shape \(3, 20, 20\).*VolumePredictor"):
        predictor.open((np.zeros((3, 20, 20)), geometry))
