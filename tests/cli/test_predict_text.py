import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("open_clip", reason="needs segkit[text]")

from segkit.cli.main import main
from segkit.models.text_encoder import save_text_encoder
from segkit.text import SmallSizes, build_small
from segkit.text import prompter as module

SIZES = SmallSizes(image_size=16, width=32, heads=2, depth=1, text_width=32, text_depth=1)


@pytest.fixture
def encoder(tmp_path):
    built = build_small(
        SIZES, ("bright", "ring", "dark", "spot"), seed=1,
        saliency={"layer": 0, "steps": 1, "copies": 1},
    )  # fmt: skip
    path = tmp_path / "encoder.safetensors"
    save_text_encoder(built, path, sizes=SIZES)
    return str(path)


@pytest.fixture
def picture(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


@pytest.fixture
def quadrant(monkeypatch):
    """Let every saliency lie in the upper right quarter."""

    def fixed(encoder, pixels, *_, **__):
        maps = torch.zeros(len(pixels), 16, 16)
        maps[:, :8, 8:] = 1
        return maps

    monkeypatch.setattr(module, "saliency", fixed)


def predict(picture, out, encoder, *options):
    return main(
        ["predict", str(picture), "-m", "sam_tiny", "-o", str(out), "--device", "cpu", "--json",
         "--text-encoder", encoder, *options]
    )  # fmt: skip


def test_words_prompt_the_model_with_their_box(picture, encoder, quadrant, tmp_path, capsys):
    assert predict(picture, tmp_path / "words.png", encoder, "--text", "a bright ring") == 0
    report = json.loads(capsys.readouterr().out)
    text = report["settings"]["text"]
    assert text["words"] == {"object": ["a bright ring"]}
    assert text["encoder"] == "small"
    assert len(text["sha256"]) == 64
    (found,) = text["inputs"][str(picture)]
    (place,) = found["places"]
    (top, left), (bottom, right) = place["box"]
    assert abs(left - 40) <= 3
    assert abs(bottom - 30) <= 3
    box = f"{left:.0f},{top:.0f},{right:.0f},{bottom:.0f}"
    command = ["predict", str(picture), "-m", "sam_tiny", "-o", str(tmp_path / "box.png")]
    assert main([*command, "--device", "cpu", "--box", box]) == 0
    masks = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("words", "box")]
    assert np.array_equal(*masks)


def test_names_make_objects_and_a_file_says_the_same(picture, encoder, tmp_path, capsys):
    words = ["--text", "ring=a bright ring", "--text", "spot=a dark spot", "--text", "ring=ring"]
    assert predict(picture, tmp_path / "a.png", encoder, *words) == 0
    first = json.loads(capsys.readouterr().out)["settings"]["text"]
    file = tmp_path / "words.yaml"
    file.write_text("ring: [a bright ring, ring]\nspot: a dark spot\n")
    assert predict(picture, tmp_path / "b.png", encoder, "--words", str(file)) == 0
    second = json.loads(capsys.readouterr().out)["settings"]["text"]
    assert first == second
    assert [one["name"] for one in first["inputs"][str(picture)]] == ["ring", "spot"]
    masks = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab"]
    assert np.array_equal(*masks)


def test_a_point_can_be_made_of_a_region(picture, encoder, quadrant, tmp_path, capsys):
    options = ("--text", "ring", "--text-as", "point")
    assert predict(picture, tmp_path / "out.png", encoder, *options) == 0
    (found,) = json.loads(capsys.readouterr().out)["settings"]["text"]["inputs"][str(picture)]
    row, column = found["places"][0]["point"]
    command = ["predict", str(picture), "-m", "sam_tiny", "-o", str(tmp_path / "point.png")]
    assert main([*command, "--device", "cpu", "--point", f"{column:.0f},{row:.0f}"]) == 0
    masks = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("out", "point")]
    assert np.array_equal(*masks)


def test_nothing_found_is_an_empty_mask_with_a_warning(
    picture, encoder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(module, "saliency", lambda *args, **_: torch.ones(len(args[1]), 4, 4))
    assert predict(picture, tmp_path / "out.png", encoder, "--text", "cyst=ring") == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["notes"] == ["the words for 'cyst' describe nothing in this image"]
    assert not np.asarray(Image.open(tmp_path / "out.png")).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", "ring", "--words", "w.yaml"), "--text and --words exclude each other"),
        (("--text", "cyst="), "says nothing"),
        (("--text", "ring", "--text-slices", "first"), "expected A:B"),
        (("--text", "ring", "-m", "nano"), "words prompt one model"),
    ],
)
def test_bad_options_are_refused(picture, encoder, tmp_path, capsys, options, message):
    assert predict(picture, tmp_path / "out.png", encoder, *options) != 0
    assert message in capsys.readouterr().err


def test_words_on_a_volume_choose_a_slice_and_propagate(encoder, quadrant, tmp_path, capsys):
    import nibabel

    array = np.random.default_rng(0).integers(0, 255, (40, 30, 4)).astype(np.uint8)
    path = tmp_path / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1, 5, 1])), path)
    assert predict(path, tmp_path / "one.nii.gz", encoder, "--text", "ring") == 0
    (found,) = json.loads(capsys.readouterr().out)["settings"]["text"]["inputs"][str(path)]
    (place,) = found["places"]
    mask = np.asarray(nibabel.load(tmp_path / "one.nii.gz").dataobj)
    assert mask.shape == (40, 30, 4)
    others = np.delete(mask, place["slice"], axis=2)
    assert not others.any()
    options = ("--text", "ring", "--text-slices", "all")
    assert predict(path, tmp_path / "all.nii.gz", encoder, *options) == 0
    (found,) = json.loads(capsys.readouterr().out)["settings"]["text"]["inputs"][str(path)]
    assert sorted(place["slice"] for place in found["places"]) == [0, 1, 2, 3]


def test_words_nobody_knows_end_the_command_before_an_input_is_read(
    picture, encoder, tmp_path, capsys
):
    words = ["--text", "ring=a bright ring", "--text", "zebra=striped zebra"]
    assert predict(tmp_path / "scan.png", tmp_path / "out.png", encoder, *words) == 1
    error = capsys.readouterr().err
    assert "knows no word of 'striped zebra'; it knows bright, ring, dark, spot" in error
    assert "scan.png" not in error
    assert not (tmp_path / "out.png").exists()
