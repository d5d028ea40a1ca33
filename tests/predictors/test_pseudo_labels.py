import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("open_clip", reason="needs segkit[text]")

from segkit.data.datamodule import SliceDataModule, SourceSpec
from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.models import build
from segkit.predictors.base import Predictor
from segkit.predictors.pseudo_labels import Rule, write_pseudo_labels
from segkit.text import SaliencySettings, SmallSizes, TextPrompter, build_small
from segkit.text import prompter as module

ANY = Rule(confidence=0, agreement=0, share=(0, 1))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(build.sam_tiny(checkpoint="random"), device="cpu")


@pytest.fixture
def prompter():
    sizes = SmallSizes(image_size=16, width=32, heads=2, depth=1, text_width=32, text_depth=1)
    encoder = build_small(sizes, ("bright", "ring"), seed=1)
    return TextPrompter(encoder, saliency=SaliencySettings(layer=0, steps=1, copies=1))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"case_{number}.png")
    return sorted(folder.iterdir())


def test_the_result_is_a_data_set_with_confidence(predictor, prompter, images, tmp_path):
    out = tmp_path / "out"
    facts = write_pseudo_labels(
        predictor, prompter, images, ["bright ring"], out, name="ring", rule=ANY
    )
    assert facts == json.loads((out / "pseudo_labels.json").read_text())
    assert (facts["kept"], facts["words"]) == (4, ["bright ring"])
    assert facts["text"]["saliency"]["steps"] == 1
    data = SliceDataModule(
        out,
        model_input=InputSpec(2, 64, "rgb"),
        source=SourceSpec(labels={1: "ring"}),
        cache_dir=tmp_path / "cache",
    )
    data.prepare()
    samples = data.train_samples
    for number in range(len(samples)):
        sample = samples.read(number)
        labels = np.asarray(Image.open(out / "labels" / f"{sample.case_id}.png"))
        assert np.array_equal(sample.mask[:48].numpy(), labels)
    for path in images:
        labels = np.asarray(Image.open(out / "labels" / path.name))
        sure = np.asarray(Image.open(out / "confidence" / path.name))
        assert labels.shape == sure.shape == (48, 64)
        assert (sure.min() >= 50, sure.max() <= 100) == (True, True)


def test_doubtful_cases_are_left_out_with_a_reason(
    predictor, prompter, images, tmp_path, monkeypatch
):
    """The first two images have a clear place, one covers too much, one shows nothing."""
    seen = []

    def fixed(encoder, pixels, *_, **__):
        maps = torch.zeros(len(pixels), 16, 16)
        number = len(seen)
        seen.append(number)
        if number < 2:
            maps[:, 4:8, 4:8] = 1
        elif number == 2:
            maps += torch.linspace(0.4, 1, 16)  # hardly any difference to what is around
        return maps

    monkeypatch.setattr(module, "saliency", fixed)
    rule = Rule(confidence=0.6, agreement=0, share=(0, 1))
    facts = write_pseudo_labels(predictor, prompter, images, ["ring"], tmp_path / "out", rule=rule)
    reasons = [row["reason"] for row in facts["cases"]]
    assert reasons[:2] == [None, None]
    assert "confidence" in reasons[2]
    assert reasons[3] == "the words describe nothing in it"
    assert len(list((tmp_path / "out" / "images").iterdir())) == facts["kept"] == 2
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2


def test_a_rule_names_what_fails():
    rule = Rule(0.2, 0.6, (0.01, 0.5))
    assert rule.reason(0.3, 0.7, 0.1) is None
    assert rule.reason(0.1, 0.7, 0.1) == "confidence 0.10 < 0.2"
    assert rule.reason(0.3, 0.5, 0.1) == "agreement 0.50 < 0.6"
    assert rule.reason(0.3, 0.7, 0.9).startswith("share 0.9000 outside")
    with pytest.raises(InputError, match="a rule's numbers"):
        Rule(confidence=2)


def test_nothing_left_is_an_error_that_keeps_the_table(predictor, prompter, images, tmp_path):
    with pytest.raises(InputError, match="none of 4 cases passes the rule"):
        write_pseudo_labels(
            predictor, prompter, images, ["ring"], tmp_path / "out", rule=Rule(confidence=1)
        )
    assert (tmp_path / "out" / "pseudo_labels.json").is_file()


def test_equal_names_are_refused(predictor, prompter, images, tmp_path):
    with pytest.raises(InputError, match="several images are called 'case_0'"):
        write_pseudo_labels(predictor, prompter, [images[0], images[0]], ["ring"], tmp_path / "out")
