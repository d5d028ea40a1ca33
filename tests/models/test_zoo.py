import json
from pathlib import Path

import pytest

from segkit.backbones.checkpoints import file_sha256
from segkit.cli.main import main
from segkit.errors import CheckpointError, InputError
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.zoo import Card, find_card, find_cards, make_card, read_info, write_index

FIGURE = {"mean": 0.9, "ci95": [0.8, 0.95], "median": 0.9}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A run folder that was evaluated, an adapter file, and a weight file that is none."""
    segmenter = build.sam_tiny(classes=1, trainable="decoder")
    info = ModelInfo.of(segmenter, labels={1: "liver"}, metrics={"val/dice": 0.7}, licence="MIT")
    run = tmp_path / "liver"
    (run / "eval" / "test").mkdir(parents=True)
    save_adapter(run / "adapter.safetensors", segmenter, info)
    (run / "environment.json").write_text(json.dumps({"data": "abc"}))
    entry = {"name": "liver", "dice": FIGURE, "nsd": FIGURE, "hd95_mm": FIGURE}
    summary = {"cases": 4, "classes": {"1": entry}, "mean": entry}
    (run / "eval" / "test" / "summary.json").write_text(json.dumps(summary))
    save_adapter(tmp_path / "spleen.safetensors", segmenter, info)
    build_weights = tmp_path / "sam.safetensors"
    from segkit.backbones.checkpoints import write_safetensors

    write_safetensors(build_weights, segmenter.backbone.encoder.state_dict())
    return tmp_path


def test_a_folder_lists_its_adapters(zoo: Path) -> None:
    cards = {card.name: card for card in find_cards(zoo)}
    assert set(cards) == {"liver", "spleen"}
    card = cards["liver"]
    assert (card.backbone, card.adapter, card.licence) == ("sam_tiny", "Adapter", "MIT")
    assert card.labels == {"1": "liver"}
    assert card.metrics["mean"]["dice"] == {"mean": 0.9, "ci95": [0.8, 0.95]}
    assert (card.training_data, card.validation) == ("abc", {"val/dice": 0.7})
    assert cards["spleen"].metrics == {}


def test_an_index_is_a_zoo_that_can_be_moved(zoo: Path, tmp_path: Path) -> None:
    index = write_index(zoo)
    assert [card["path"] for card in json.loads(index.read_text())["cards"]] == [
        "liver/adapter.safetensors",
        "spleen.safetensors",
    ]
    assert find_cards(index) == find_cards(zoo)
    assert find_card("liver", index).labels == {"1": "liver"}
    with pytest.raises(InputError, match=r"no adapter 'livr' here; did you mean 'liver'\?"):
        find_card("livr", index)


def test_a_card_counts_for_its_file_alone(zoo: Path) -> None:
    card = make_card(zoo / "liver", modality="CT", licence="CC-BY-4.0")
    (zoo / "liver" / "card.json").write_text(card.to_json())
    assert find_card("liver", zoo).modality == "CT"
    assert card.sha256 == file_sha256(zoo / "liver" / "adapter.safetensors")
    other = build.sam_tiny(classes=1, trainable="decoder", checkpoint="random:2")
    save_adapter(zoo / "liver" / "adapter.safetensors", other, ModelInfo.of(other))
    with pytest.raises(InputError, match="the card of 'liver' is about a file with sha256"):
        find_cards(zoo)


def test_adapters_are_called_by_where_they_lie(zoo: Path) -> None:
    card = make_card(zoo / "liver", modality="CT")
    (zoo / "liver" / "card.json").write_text(card.to_json())
    (zoo / "liver").rename(zoo / "hepar")
    assert find_card("hepar", zoo).modality == "CT"
    # runs/<experiment>/<time>, as training leaves them
    (zoo / "runs").mkdir()
    (zoo / "hepar").rename(zoo / "runs" / "2026-01-01")
    assert {one.name for one in find_cards(zoo)} == {"runs/2026-01-01", "spleen"}
    assert find_card("runs/2026-01-01", write_index(zoo)).modality == "CT"


def test_a_planned_run_knows_its_modality(zoo: Path) -> None:
    plan = {"fingerprint": {"modality": ["MRI", "T1"]}}
    (zoo / "liver" / "plan.json").write_text(json.dumps(plan))
    assert make_card(zoo / "liver").modality == "MRI, T1"
    assert make_card(zoo / "liver", modality="CT").modality == "CT"


def test_what_is_no_card_and_no_zoo_is_refused(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder or index"):
        find_cards("nowhere")
    (wrong := tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(InputError, match="no index of adapters"):
        find_cards(wrong)
    with pytest.raises(InputError, match="no card of format 1"):
        Card.from_dict({"format": 2}, wrong)
    with pytest.raises(InputError, match=r"the card lacks .*'sha256'.* has unknown \['colour'\]"):
        Card.from_dict({"format": 1, "colour": 1}, wrong)
    with pytest.raises(CheckpointError, match="no adapter file: its header has no entry"):
        read_info(zoo / "sam.safetensors")


def test_the_command_lists_describes_and_indexes(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "list", "--in", str(zoo), "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)["adapters"]] == [
        "liver",
        "spleen",
    ]
    assert main(["models", "info", "liver", "--in", str(zoo)]) == 0
    out = capsys.readouterr().out
    assert "Dice 0.900 [0.800, 0.950]" in out
    assert "evaluated   4 test case(s)" in out
    assert main(["models", "card", str(zoo / "liver"), "--modality", "CT"]) == 0
    assert main(["models", "index", str(zoo)]) == 0
    assert find_card("liver", zoo / "index.json").modality == "CT"
