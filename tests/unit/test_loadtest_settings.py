"""Scenario files: every one of them can be read, and a wrong one says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.settings import WrongSetting, scenario, scenarios


@pytest.mark.parametrize("name", scenarios())
def test_each_scenario_that_comes_along_can_be_read(name: str) -> None:
    settings = scenario(name)
    settings.check(has_log=name == "replay")
    assert settings.as_dict().keys() >= {"seed", "processes", "abandon", "channels"}


@pytest.mark.parametrize(
    ("buyers", "seconds"), [(300, 15), (5000, 15), (15_000, 15), (100_000, 100)]
)
def test_a_flash_sale_is_as_long_as_its_crowd_is_large(buyers: int, seconds: int) -> None:
    settings = scenario("flash-sale", [f"buyers={buyers}"])
    assert settings.seconds == seconds
    assert settings.held_seconds == round(seconds / 3)  # 600 of 1,800 seconds
    assert settings.scaled(75) == pytest.approx(75 * seconds / 1800)


def test_a_set_key_overrides_the_file() -> None:
    settings = scenario("flash-sale", ["buyers=10", "seconds=2.5", "abandon=1"])
    assert (settings.buyers, settings.seconds, settings.abandon) == (10, 2.5, 1)
    assert settings.is_open
    assert not scenario("replay").is_open
    assert scenario("replay", ["speed=3600"]).is_open


def test_a_scenario_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my-drop.toml"
    path.write_text('buyers = 5\nseconds = 1\nunits = 2\n[[channel]]\nname = "web"\n')
    settings = scenario(str(path))
    settings.check(has_log=False)
    assert [channel.name for channel in settings.channels] == ["web"]
    assert (settings.abandon, settings.look) == (0, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("buyers = ", "Invalid value"),
        ("byers = 5", "byers = 5: expected a key of seed, "),
        ("buyers = 0.5", "buyers = 0.5: not a valid buyers"),
        ('shape = "round"', "not a valid shape"),
        ('[[channel]]\nname = "web"\nflor = 0.5', r"\[\[channel\]\]: .*flor"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(WrongSetting, match=told) as raised:
        scenario(str(path))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_crowd_needs_somebody_to_come_and_somewhere_to_go(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("buyers = 5\n")
    with pytest.raises(WrongSetting, match=r"needs at least one \[\[channel\]\]"):
        scenario(str(path)).check(has_log=False)
    with pytest.raises(WrongSetting, match="expected an order log"):
        scenario("replay").check(has_log=False)
    with pytest.raises(WrongSetting, match="needs a rate to begin with"):
        scenario("find-limit", ["rate=0"]).check(has_log=False)
    with pytest.raises(WrongSetting, match="takes no order log"):
        scenario("flash-sale").check(has_log=True)
