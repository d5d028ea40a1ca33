import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("open_clip", reason="needs segkit[text]")

from segkit.backbones.checkpoints import file_sha256
from segkit.models.text_encoder import load_text_encoder
from segkit.text import SaliencySettings, SmallSizes, saliency
from tools.nano.export import WEIGHTS, read_log
from tools.text import choose, export, finetune, pseudo, train, validate
from tools.text.card import END as END_MARK
from tools.text.card import START as START_MARK
from tools.text.card import write_card
from tools.text.phrases import PHRASES, known_pairs_loss
from tools.text.pictures import captioned_picture
from tools.text.vocabulary import SHAPES, TONES, VOCABULARY

TINY = SmallSizes(
    image_size=24, width=24, heads=2, depth=2, features=8, text_width=16, text_depth=1, text_heads=1
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(train, "SIZES", TINY)
    monkeypatch.setattr(export, "SIZES", TINY)
    monkeypatch.setattr(
        train, "start", lambda seed, batch, **kinds: START(seed, batch, TINY, **kinds)
    )
    monkeypatch.setattr(export, "start", train.start)
    monkeypatch.setattr(
        train, "validate", lambda encoder, group: validate.validate(encoder, group, 6)
    )


START = train.start


def test_pictures_are_what_their_captions_say():
    """Tones are measured against the pixels around an object, places by its centre."""
    checked = 0
    for number in range(150):
        picture = captioned_picture((8, number), 96)
        grey = picture.image.astype(float).mean(2)
        for kind, mask in zip(picture.kinds, picture.masks, strict=True):
            rows, cols = np.nonzero(mask)
            assert {None: True, "upper": rows.mean() < 48, "lower": rows.mean() > 48}[kind.row]
            assert {None: True, "left": cols.mean() < 48, "right": cols.mean() > 48}[kind.column]
            if kind.shape != "round" or len(picture.kinds) > 1 or kind.ground or kind.count > 1:
                continue
            centre = np.array([rows.mean(), cols.mean()])[:, None, None]
            distance = np.hypot(*(np.indices(mask.shape) - centre))
            around = ~mask & (distance < 1.6 * np.sqrt(mask.sum() / np.pi))
            assert (grey[mask].mean() > grey[around].mean()) == (kind.tone == "bright")
            checked += 1
    assert checked > 2


def test_pictures_and_captions_repeat():
    first, second = (captioned_picture((8, 3), 64) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    captions = [one.caption(np.random.default_rng(1), 0) for one in (first, second)]
    assert captions[0] == captions[1]


def test_every_word_is_in_the_vocabulary():
    rng = np.random.default_rng(0)
    for number in range(80):
        picture = captioned_picture((9, number), 48)
        for kind in range(len(picture.kinds)):
            for word in picture.caption(rng, kind).split():
                assert word in VOCABULARY, word
    for phrase in PHRASES:
        assert set(phrase.words(rng).split()) <= set(VOCABULARY)


def test_phrases_hold_where_the_generator_says_so():
    picture = captioned_picture((8, 3), 64)
    said = {(phrase.tone, phrase.shape) for phrase in PHRASES if phrase.holds(picture.kinds)}
    are = {(kind.tone, kind.shape) for kind in picture.kinds}
    for tone in TONES:
        for shape in SHAPES:
            assert ((tone, shape) in said) == ((tone, shape) in are)


def test_known_pairs_are_compared_with_wrong_pictures_only():
    scores = torch.tensor([[2.0, 0.5], [1.0, 0.0], [0.0, 0.0]])
    holds = torch.tensor([[True, True], [True, True], [False, True]])
    wanted = torch.stack(
        [-torch.log_softmax(torch.tensor([right, 0.0]), 0)[0] for right in (2.0, 1.0)]
    ).mean()
    assert torch.allclose(known_pairs_loss(scores, holds), wanted)
    assert known_pairs_loss(scores, torch.ones_like(holds)) == 0


def test_a_run_logs_resumes_and_exports(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    unbroken = train.start(1, 4)
    for step in range(4):
        unbroken.advance(step / 4)
    first = train.start(1, 4)
    first.advance(0.0)
    first.advance(0.25)
    train.note(first, run, [{"loss": 1.0}], 4)
    second = train.start(1, 4)
    second.resume(torch.load(run / "state.ckpt", weights_only=True))
    train.run(second, run, seconds=60, steps=4, every=1e9, batch=4)
    for name, weight in second.encoder.state_dict().items():
        assert torch.allclose(weight, unbroken.encoder.state_dict()[name]), name
    log = read_log(run)
    assert [line["step"] for line in log] == [2, 4]
    assert {"retrieval", "tone", "shape", "pointing", "chance"} <= set(log[-1])
    settings = SaliencySettings(layer=-1, beta=0.3, steps=1)
    facts = export.export(run, tmp_path, settings=settings)
    path = tmp_path / "nano_clip.safetensors"
    assert facts["sha256"] == file_sha256(path)
    again = load_text_encoder(path)
    assert again.spec.saliency == settings
    assert facts["training"]["images"] == 16
    card = tmp_path / "card.md"
    card.write_text(f"# Card\n{START_MARK}\nold\n{END_MARK}\nrest\n")
    write_card(card, facts | {"saliency_candidates": [{"box_iou": 0.5}]})
    assert facts["sha256"] in card.read_text()
    assert card.read_text().endswith("rest\n")
    assert "old" not in card.read_text()
    assert json.loads((tmp_path / "nano_clip.json").read_text())["sizes"] == TINY.to_dict()


def test_settings_are_chosen_by_their_boxes(monkeypatch):
    """With one candidate that is right and one that is empty, the right one wins."""
    monkeypatch.setattr(choose, "LAYERS", (-1,))
    monkeypatch.setattr(choose, "NOISES", ("unit",))
    monkeypatch.setattr(choose, "BETAS", (0.1, 0.5))
    encoder = train.start(1, 4).encoder.eval()
    shown = validate.pictures(2, 3, TINY.image_size)

    def fixed(encoder, pixels, texts, settings):
        masks = torch.from_numpy(np.stack([one.masks[0] for one in shown])).float()
        return masks if settings.beta == 0.5 else torch.zeros_like(masks)

    monkeypatch.setattr(choose, "saliency", fixed)
    settings, table = choose.choose(encoder, 2, 3)
    assert settings.beta == 0.5
    assert table[0]["box_iou"] == 0
    # objects of one kind may be several, a region is one
    assert table[1]["box_iou"] > 0.4


def test_fine_tuning_writes_an_encoder_that_loads(tmp_path, monkeypatch, capsys):
    export_path = tmp_path / "start.safetensors"
    from segkit.models.text_encoder import save_text_encoder

    save_text_encoder(train.start(1, 4).encoder, export_path, sizes=TINY)
    rows = []
    for number in range(4):
        picture = captioned_picture((8, number), 32)
        Image.fromarray(picture.image).save(tmp_path / f"{number}.png")
        rows.append(
            {"image": f"{number}.png", "caption": picture.caption(np.random.default_rng(0), 0)}
        )
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out"
    command = [
        "finetune", str(tmp_path / "captions.jsonl"), "--encoder", str(export_path), "--out",
        str(out), "--epochs", "3", "--batch", "4", "--rate", "1e-3", "--least-characters", "1",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    finetune.main()
    before, after = load_text_encoder(export_path), load_text_encoder(out / "encoder.safetensors")
    assert not torch.equal(before.model.visual.proj, after.model.visual.proj)
    monkeypatch.setattr(sys, "argv", [*command, "--resume"])
    finetune.main()  # nothing is left to do
    again = load_text_encoder(out / "encoder.safetensors")
    assert torch.equal(again.model.visual.proj, after.model.visual.proj)


def test_masks_from_words_become_a_set(tmp_path, monkeypatch, capsys):
    for number in range(2):
        Image.fromarray(captioned_picture((8, number), 64).image).save(tmp_path / f"{number}.png")
    command = [
        "pseudo", str(tmp_path), "--text", "spot=a bright round object", "-m", "sam_tiny", "-o",
        str(tmp_path / "out"), "--confidence", "0", "--agreement", "0", "--share", "0", "1",
        "--device", "cpu",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    pseudo.main()
    assert json.loads(capsys.readouterr().out) == {"kept": 2, "cases": 2}


def test_shipped_weights_are_those_of_the_card():
    facts = json.loads((WEIGHTS / "nano_clip.json").read_text())
    path = WEIGHTS / facts["file"]
    assert file_sha256(path) == facts["sha256"]
    assert path.stat().st_size == facts["bytes"] < 4_000_000
    encoder = load_text_encoder("nano_clip")
    assert encoder.spec.sha256 == facts["sha256"]
    assert encoder.spec.saliency.to_dict() == facts["saliency"]
    assert sum(weight.numel() for weight in encoder.parameters()) == facts["parameters"]
    card = (WEIGHTS.parents[1] / "docs" / "models" / "nano_clip.md").read_text()
    assert facts["sha256"] in card


def test_shipped_weights_tell_bright_from_dark():
    """The log says so of other pictures: it knows tones much better than chance."""
    encoder = load_text_encoder("nano_clip")
    found = validate.validate(encoder, 5, 48)
    assert found["tone"] > 0.65
    image = captioned_picture((5, 1), encoder.spec.image_size).image
    pixels = encoder.pixels(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    settings = replace(encoder.spec.saliency, steps=2, copies=2)
    with torch.no_grad():
        text = encoder.encode_text(["a bright object"])
    assert saliency(encoder, pixels, text, settings).shape == (1, 9, 9)
