import json

import numpy as np
import pytest
from PIL import Image

from segkit.errors import InputError
from segkit.text.pairs import CaptionBatches, read_captions

LONG = "a chest image that shows number {}"


@pytest.fixture
def table(tmp_path):
    rows = []
    for number in range(5):
        Image.fromarray(np.full((20, 30), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": LONG.format(number)})
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_csv_and_json_lines_say_the_same(table):
    lines = ["image,caption", *(f'{n}.png,"{LONG.format(n)}"' for n in range(5))]
    table.with_suffix(".csv").write_text("\n".join(lines))
    assert read_captions(table) == read_captions(table.with_suffix(".csv"))
    assert read_captions(table)[3].image == table.parent / "3.png"


def test_batches_are_the_same_for_the_same_step_and_cover_a_pass(table):
    batches = CaptionBatches(read_captions(table), size=16, batch=2, seed=1)
    assert batches.steps_per_pass == 2
    first, again, next_pass = batches(0), batches(0), batches(2)
    assert first.images.shape == (2, 3, 16, 16)
    assert (first.images == again.images).all()
    assert set(first.captions[0]).isdisjoint(batches(1).captions[0])
    assert next_pass.captions[0] != first.captions[0]
    for image, caption in zip(first.images, first.captions[0], strict=True):
        assert image.mean().item() == pytest.approx(40 * int(caption[-1]) / 255, abs=1e-3)


def test_short_captions_are_left_out(table):
    rows = table.read_text().splitlines()
    rows[0] = json.dumps({"image": "0.png", "caption": "lung"})
    table.write_text("\n".join(rows))
    assert len(read_captions(table)) == 4
    assert len(read_captions(table, least_characters=1)) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "0.png"}', "row 1 lacks an image or a caption"),
        ('{"image": "9.png", "caption": "a caption of good length"}', "1 images are missing"),
        ("{", "cannot be read as a table"),
        ('{"image": "0.png", "caption": "short"}', "0 of 1 captions have at least 20"),
    ],
)
def test_bad_tables_are_refused(table, text, message):
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        read_captions(table)


def test_a_pair_alone_is_no_batch(table):
    with pytest.raises(InputError, match="at least 2 pairs"):
        CaptionBatches(read_captions(table), size=16, batch=1)
