"""Every case belongs to exactly one process."""

import pytest

from segkit.errors import InputError
from segkit.predictors.shards import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_cover_everything_once(count: int) -> None:
    parts = [Shard(index, count).of(range(5)) for index in range(count)]
    assert sorted(item for part in parts for item in part) == list(range(5))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_torchrun_says_which_part_a_process_takes() -> None:
    told = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "8"}
    assert Shard.under_torchrun(told) == Shard(3, 8)
    # variables that a shell or a scheduler left behind say nothing
    assert Shard.under_torchrun({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1"}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("2/2", "there is no part 2 of 2"), ("0/0", "no part 0 of 0"), ("1", "a part such as 0/4")],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Shard.parse(text)
