import pytest

from segkit.errors import InputError
from segkit.text.settings import RegionSettings, SaliencySettings


@pytest.mark.parametrize("settings", [SaliencySettings(-1, 0.5), RegionSettings(0.3, keep=2)])
def test_settings_survive_json(settings):
    assert type(settings).from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize("cls", [SaliencySettings, RegionSettings])
def test_unknown_entries_are_refused(cls):
    with pytest.raises(InputError, match=r"unknown entries \['vvar'\]"):
        cls.from_dict({"vvar": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps and copies"),
        ({"beta": -1}, "beta must be >= 0"),
        ({"noise": "pink"}, "noise 'pink'"),
    ],
)
def test_bad_saliency_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        SaliencySettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": "kmeans"}, "threshold must be"),
        ({"threshold": 1.5}, "threshold must be"),
        ({"keep": 0}, "keep must be"),
        ({"rank": "size"}, "rank 'size'"),
    ],
)
def test_bad_region_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        RegionSettings(**values)
