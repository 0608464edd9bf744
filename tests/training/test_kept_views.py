"""Views that are drawn once: the ones that every update would draw, rounded, and shared by all trainings of a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.core.seeds import derived_seed
from mnprobe.models.arp import ARP, TrainNoise
from mnprobe.models.arp.augment import draw_zoom_noise
from mnprobe.models.loading import read_state_dict
from mnprobe.training import TrainConfig, train
from mnprobe.training.config import preset
from mnprobe.training.dataset import prepare_inputs

DRAWS = 2


@pytest.fixture
def policy(micro):
    policy = ARP(micro().arp_config())
    policy.init_weights(torch.Generator().manual_seed(0))
    return policy.eval()


def test_they_are_what_an_update_would_draw(micro_dataset, policy, tmp_path):
    config = policy.config
    shape = (config.language_length, config.language_width)

    def language(texts):
        return torch.stack([torch.full(shape, float(len(text))) for text in texts])

    fresh = prepare_inputs(micro_dataset, viclip=None, arp=config, cache=tmp_path, quiet=True)
    kept = prepare_inputs(micro_dataset, viclip=None, arp=config, cache=tmp_path, kept_views=DRAWS, quiet=True)
    assert np.array_equal(kept.transition_episode, fresh.transition_episode)
    rows, draws = np.array([3, 0, 11, 3]), np.array([1, 0, 1, 0])
    batch = kept.policy_batch(rows, language, draws=draws)
    usual = fresh.policy_batch(rows, language)
    units = []
    for row, draw in zip(rows, draws, strict=True):
        episode = kept.transition_episode[row]
        seed = derived_seed(int(draw), "kept views", str(kept.ids[episode]))
        steps = np.flatnonzero(kept.transition_episode == episode)
        noise = draw_zoom_noise(len(steps), torch.Generator().manual_seed(seed))
        units.append(noise[int(np.flatnonzero(steps == row)[0])])
    drawing = policy.draw(usual.observation)
    assert torch.equal(batch.views.first, drawing.views[:, :, :7].half())
    assert torch.equal(batch.views.waypoint, drawing.scene.into_cube(usual.target.pose[:, :3]))
    with torch.no_grad():
        ours = policy.losses(batch)
        theirs = policy.losses(usual, TrainNoise(waypoint_noise_unit=torch.stack(units)))
    for name, value in theirs.items():  # float16 views: the fourth digit
        torch.testing.assert_close(ours[name], value, rtol=2e-3, atol=2e-3)
    with pytest.raises(ConfigError, match="kept views are drawn already"):
        policy.losses(batch, TrainNoise(waypoint_noise_unit=torch.stack(units)))


def test_trainings_share_them_and_repeat(micro, micro_dataset, tmp_path):
    settings = {"augment": "none", "colour_noise": False, "kept_views": DRAWS}
    run = RunDir.create(tmp_path / "run")
    one, other = (
        train(micro(**settings, lambda_align=weight), micro_dataset, run, device="cpu") for weight in (0.0, 0.5)
    )
    assert (one.name, other.name) == ("baseline", "joint")
    assert sorted(path.name.split("-")[0] for path in (run.path / "cache").glob("*-*") if path.is_dir()) == [
        "clips",
        "steps",
        "views",
    ]
    again = RunDir.create(tmp_path / "again")
    train(micro(**settings, lambda_align=0.0), micro_dataset, again, device="cpu")
    first, second = (read_state_dict(home.checkpoint("arp-baseline", 6)) for home in (run, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = RunDir.create(tmp_path / "fresh")
    train(micro(**settings | {"kept_views": 0}, lambda_align=0.0), micro_dataset, fresh, device="cpu")
    usual = read_state_dict(fresh.checkpoint("arp-baseline", 6))
    assert not all(torch.equal(first[name], usual[name]) for name in first)


def test_trainings_without_them_are_what_they_were():
    assert "kept_views" not in TrainConfig().measurement()
    assert preset("tiny").digest() == "84f21795d36344b7"
    assert replace(preset("tiny"), kept_views=DRAWS).measurement()["kept_views"] == DRAWS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept_views": 2, "augment": "shift", "colour_noise": False}, "set augment to none and colour_noise to false"),
        ({"kept_views": 2, "augment": "none", "colour_noise": True}, "set augment to none and colour_noise to false"),
        ({"kept_views": -1}, "kept_views must be 0 or more, got -1"),
    ],
)
def test_what_cannot_be_kept_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)
