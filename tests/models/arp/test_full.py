import dataclasses

import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import ARP, ARPConfig, Batch, Observation, SE3Draws, Target, TrainNoise
from mnprobe.models.arp.config import CAMERAS
from mnprobe.models.arp.pointcloud import zoom
from mnprobe.models.arp.rotation import bins_to_quat, quat_to_bins
from mnprobe.models.arp.views import project

VARIANTS = ("full_arp", "full_arp_plus")
NAMES = ("rot-x", "rot-y", "rot-z", "grip", "collision")


def _load(golden, **changes):
    policy = ARP(dataclasses.replace(golden.config, **changes)).eval()
    policy.load_state_dict(golden.weights, strict=True)
    return policy


def _observation(arrays, part):
    return Observation(
        point_cloud={camera: arrays[f"{part}.obs.{camera}_point_cloud"] for camera in CAMERAS},
        rgb={camera: arrays[f"{part}.obs.{camera}_rgb"] for camera in CAMERAS},
        language=arrays[f"{part}.obs.lang_goal_embs"],
        state=arrays[f"{part}.obs.low_dim_state"],
    )


def _target(arrays, part):
    return Target(
        pose=arrays[f"{part}.obs.gripper_pose"],
        gripper_open=arrays[f"{part}.obs.gripper_action"],
        ignore_collisions=arrays[f"{part}.obs.ignore_collisions"],
    )


def _batch(arrays):
    return Batch(observation=_observation(arrays, "train"), target=_target(arrays, "train"))


def _noise(arrays):
    return TrainNoise(
        waypoint_noise_unit=arrays["train.waypoint_noise_unit"], rot_token_shift=arrays["train.rot_token_shift"]
    )


def _pair(arrays):
    """The golden evaluation scene and two training scenes as one batch: clouds of three different lengths."""
    return Observation.join([_observation(arrays, "eval"), _observation(arrays, "train")])


@pytest.mark.parametrize("variant", VARIANTS)
def test_act_equals_golden_from_raw_observation_to_action(piece, assert_golden, variant):
    golden = piece(variant)
    policy, arrays = _load(golden), golden.arrays
    seen: dict[str, torch.Tensor] = {}
    for stage, mvt in ((1, policy.mvt1), (2, policy.mvt2)):

        def hook(_module, inputs, output, stage=stage):
            seen[f"eval.stage{stage}.image"], seen[f"eval.stage{stage}.featmap"] = inputs[0][0, :, :7], output

        mvt.register_forward_hook(hook)
    norms: list[torch.Tensor] = []
    policy.policy.final_ln.register_forward_hook(lambda _m, _i, out: norms.append(out))
    prompts: list[torch.Tensor] = []
    policy.policy.token_embedders[0].register_forward_hook(lambda _m, inputs, _o: prompts.append(inputs[1]))
    observation = _observation(arrays, "eval")
    out = policy.act(observation, heatmaps=True)

    scene = policy.draw(observation).scene
    torch.testing.assert_close(scene.points[0], arrays["eval.stage1.points"], rtol=0, atol=1e-6)
    torch.testing.assert_close(scene.rgb[0], arrays["eval.rgb01"], rtol=0, atol=1e-6)
    zoomed = [zoom(cloud, out.waypoints[0, 0], policy.config.zoom) for cloud in scene.points]
    torch.testing.assert_close(zoomed[0], arrays["eval.stage2.points"], rtol=0, atol=1e-5)
    for stage in (1, 2):
        image, expected = seen[f"eval.stage{stage}.image"], arrays[f"eval.stage{stage}.image"]
        torch.testing.assert_close(image[:, :6], expected[:, :6], rtol=0, atol=1e-6)
        torch.testing.assert_close(image[:, 6], expected[:, 6], rtol=0, atol=1e-5)
        assert_golden(seen[f"eval.stage{stage}.featmap"], arrays[f"eval.stage{stage}.featmap"])
        assert_golden(out.heatmaps[:, stage - 1], arrays[f"eval.stage{stage}.heatmap_logits"])
        assert_golden(out.waypoints[:, stage - 1], arrays[f"eval.stage{stage}.waypoint_cube"])
        assert_golden(norms[stage - 1].view(1, 3, -1), arrays[f"eval.stage{stage}.cross_hidden"])
    assert_golden(prompts[0], arrays["eval.prompt_features"])
    assert torch.equal(out.sequence, arrays["eval.sequence"].long())
    for name in NAMES:
        assert_golden(out.logits[name], arrays[f"eval.logits.{name}"], name)
    assert_golden(out.hidden["e"], arrays["eval.self_last_block"])
    assert_golden(out.hidden["norm"], arrays["eval.self_hidden"])
    assert_golden(out.action[0], arrays["eval.action"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_labels_and_states_equal_golden(piece, assert_golden, variant):
    golden = piece(variant)
    policy, arrays = _load(golden).train(), golden.arrays
    batch, noise = _batch(arrays), _noise(arrays)
    lesson = policy._teach(batch, noise)
    for i, (sight, waypoint) in enumerate(zip(lesson.sights, lesson.waypoints, strict=True), start=1):
        expected = arrays[f"train.stage{i}.image"]
        torch.testing.assert_close(sight.images[:, :, :6], expected[:, :, :6], rtol=0, atol=1e-6)
        torch.testing.assert_close(sight.images[:, :, 6], expected[:, :, 6], rtol=0, atol=1e-5)
        assert_golden(sight.maps, arrays[f"train.stage{i}.featmap"])
        labels = policy._heatmap_labels(waypoint).view(2, 3, -1).transpose(1, 2)
        assert_golden(labels, arrays[f"train.stage{i}.label_heatmap"])
        xy = project(waypoint[:, None], golden.config.image_size)[:, 0]
        assert_golden(xy, arrays[f"train.stage{i}.label_screen_xy"])
        logged = sight.maps.flatten(2).norm(dim=2).mean()  # what the original writes into its training log
        torch.testing.assert_close(logged.detach(), arrays[f"train.stat.v{i}_norm"], rtol=1e-5, atol=0)
    for name in NAMES:
        assert torch.equal(lesson.labels[name], arrays[f"train.label.{name.replace('-', '_')}"])
    assert_golden(lesson.star.norm, arrays["train.self_hidden_star"])
    assert_golden(lesson.hat.norm, arrays["train.self_hidden_hat"])
    losses = policy.losses(batch, noise)
    assert list(losses) == [name.removeprefix("train.loss.") for name in arrays if name.startswith("train.loss.")]
    for name, loss in losses.items():
        torch.testing.assert_close(loss.detach(), arrays[f"train.loss.{name}"], rtol=1e-5, atol=0)
    torch.testing.assert_close(sum(losses.values()).detach(), arrays["train.total_loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_golden(piece, assert_golden, variant):
    golden = piece(variant)
    policy, arrays = _load(golden).train(), golden.arrays
    sum(policy.losses(_batch(arrays), _noise(arrays)).values()).backward()
    norms = golden.settings["grad_norm"]
    parameters = dict(policy.named_parameters())
    assert set(parameters) == set(norms)
    for name, parameter in parameters.items():
        assert parameter.grad.norm().item() == pytest.approx(norms[name], rel=1e-4, abs=1e-7), name
        if f"train.grad.{name}" in arrays:
            assert_golden(parameter.grad, arrays[f"train.grad.{name}"], name, tolerance=1e-4)


def test_samples_of_a_batch_do_not_influence_each_other(piece):
    golden = piece("full_arp")
    policy, observation = _load(golden), _pair(golden.arrays)
    scene = policy.draw(observation).scene
    assert len({len(cloud) for cloud in scene.points}) > 1, "the clouds should be ragged"
    together = policy.act(observation, heatmaps=True)
    alone = policy.act(_observation(golden.arrays, "eval"), heatmaps=True)
    torch.testing.assert_close(together.action[:1], alone.action, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.heatmaps[:1], alone.heatmaps, rtol=1e-4, atol=1e-4)
    assert set(together.hidden) == set(alone.hidden)
    for name, states in alone.hidden.items():
        torch.testing.assert_close(together.hidden[name][:1], states, rtol=1e-4, atol=1e-4)
    order = [2, 0, 1]
    swapped = policy.act(Observation.join([_take(observation, i) for i in order]))
    torch.testing.assert_close(swapped.action, together.action[order], rtol=1e-5, atol=1e-5)


def _take(observation, i):
    return Observation(
        point_cloud={name: x[i : i + 1] for name, x in observation.point_cloud.items()},
        rgb={name: x[i : i + 1] for name, x in observation.rgb.items()},
        language=observation.language[i : i + 1],
        state=observation.state[i : i + 1],
    )


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (1, 1, 1, 2)])
def test_teacher_forcing_on_the_greedy_action_gives_the_greedy_states(piece, chunks):
    """Feed back what `act` did: its first-stage point as zoom centre, its bins by way of the token shift."""
    golden = piece("full_arp_plus")
    policy = _load(golden, action_chunks=chunks)
    observation = _pair(golden.arrays)
    out = policy.act(observation)
    target = Target(pose=out.action[:, :7], gripper_open=out.action[:, 7], ignore_collisions=out.action[:, 8])
    scene = policy.draw(observation).scene
    offset = out.waypoints[:, 0] - scene.into_cube(out.action[:, :3])
    noise = TrainNoise(
        waypoint_noise_unit=offset / (2 * policy.config.waypoint_noise),
        rot_token_shift=out.sequence[:, 6:9, 0] - quat_to_bins(out.action[:, 3:7]),
    )
    taught = policy.encode(observation, target, noise)
    assert set(taught) == set(out.hidden)
    for name, states in taught.items():
        torch.testing.assert_close(states, out.hidden[name], rtol=1e-3, atol=1e-3)


def test_hidden_has_the_named_taps_with_their_shapes():
    config = ARPConfig.tiny()
    policy = ARP(config)
    policy.init_weights(torch.Generator().manual_seed(0))
    hidden = policy.act(_random_observation(config, 3)).hidden
    assert {name: tuple(x.shape) for name, x in hidden.items()} == {
        "e": (3, 5, 64),
        "norm": (3, 5, 64),
        **{f"blocks.{i}": (3, 5, 64) for i in (2, 3)},
        "screen": (3, 2, 3, 64),
    }
    assert torch.equal(hidden["e"], hidden["blocks.3"])


def _random_observation(config, batch, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(config.bounds[i : i + 3])[:, None, None] for i in (0, 3))
    return Observation(
        point_cloud={
            camera: low + (high - low) * torch.rand(batch, 3, size, size, generator=generator) for camera in CAMERAS
        },
        rgb={
            camera: torch.randint(0, 256, (batch, 3, size, size), generator=generator, dtype=torch.uint8)
            for camera in CAMERAS
        },
        language=torch.randn(batch, config.language_length, config.language_width, generator=generator),
        state=torch.rand(batch, config.state_width, generator=generator),
    )


def _random_batch(config, batch):
    generator = torch.Generator().manual_seed(7)
    turns = torch.randn(batch, 4, generator=generator)
    pose = torch.cat([torch.tensor([[0.1, -0.2, 0.9]]).expand(batch, -1), turns], dim=1)
    target = Target(pose=pose, gripper_open=torch.ones(batch), ignore_collisions=torch.zeros(batch))
    return Batch(observation=_random_observation(config, batch), target=target)


@pytest.fixture(scope="module")
def tiny():
    policy = ARP(dataclasses.replace(ARPConfig.tiny(), dropout=0.3))
    policy.init_weights(torch.Generator().manual_seed(0))
    return policy


def test_acting_and_encoding_switch_dropout_off_and_leave_every_mode_as_it_was(tiny):
    batch = _random_batch(tiny.config, 2)
    tiny.train()
    tiny.mvt1.eval()
    modes = [module.training for module in tiny.modules()]
    first, second = tiny.act(batch.observation), tiny.act(batch.observation)
    assert torch.equal(first.action, second.action)
    assert torch.equal(first.hidden["e"], second.hidden["e"])
    assert not first.hidden["e"].requires_grad
    assert not tiny.encode(batch.observation, batch.target)["e"].requires_grad
    assert [module.training for module in tiny.modules()] == modes
    assert first.heatmaps is None
    tiny.train()
    assert tiny.losses(batch)["grip.ce_loss"] != tiny.losses(batch)["grip.ce_loss"], "dropout should act in training"


def test_forward_gives_states_that_carry_gradients_and_equal_encode(tiny):
    batch = _random_batch(tiny.config, 2)
    out = tiny.eval()(batch)
    torch.testing.assert_close(out.hidden["e"].detach(), tiny.encode(batch.observation, batch.target)["e"])
    out.hidden["e"].sum().backward()
    assert tiny.mvt2.pos_encoding.grad.abs().sum() > 0
    assert tiny.mvt1.pos_encoding.grad is None or not tiny.mvt1.pos_encoding.grad.any()
    tiny.zero_grad()


def test_mixed_precision_changes_the_losses_little(tiny):
    batch = _random_batch(tiny.config, 2)
    tiny.eval()
    exact = tiny.losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiny.losses(batch)
        assert tiny.act(batch.observation).action.dtype == torch.float32
    for name, loss in exact.items():
        assert rough[name].item() == pytest.approx(loss.item(), rel=0.05), name


def test_each_noise_arrives(tiny):
    batch = _random_batch(tiny.config, 2)
    tiny.eval()
    generator = torch.Generator().manual_seed(5)
    noise = TrainNoise.draw(generator, batch, tiny.config)
    plain = {name: loss.item() for name, loss in tiny.losses(batch).items()}
    assert plain == {name: loss.item() for name, loss in tiny.losses(batch, TrainNoise()).items()}
    changed = {
        part: {name for name, loss in tiny.losses(batch, part_noise).items() if loss.item() != plain[name]}
        for part, part_noise in {
            "waypoint": TrainNoise(waypoint_noise_unit=noise.waypoint_noise_unit),
            "shift": TrainNoise(rot_token_shift=torch.full((2, 3), -2)),
            "colour": TrainNoise(colour=noise.colour),
            "se3": TrainNoise(se3=noise.se3),
        }.items()
    }
    assert "stage1-screen-pts.2d_ce_loss" not in changed["waypoint"]
    assert "stage2-screen-pts.2d_ce_loss" in changed["waypoint"]
    assert changed["shift"] == {"rot-y.ce_loss", "rot-z.ce_loss"}, "only the tokens that are fed in may move"
    assert len(changed["colour"]) == 7
    assert len(changed["se3"]) == 7


def test_noise_is_drawn_from_the_generator_alone(tiny):
    batch = _random_batch(tiny.config, 3)
    draws = [TrainNoise.draw(torch.Generator().manual_seed(5), batch, tiny.config) for _ in range(2)]
    for name in ("waypoint_noise_unit", "rot_token_shift", "colour"):
        assert torch.equal(getattr(draws[0], name), getattr(draws[1], name))
    assert all(torch.equal(a, b) for a, b in zip(draws[0].se3, draws[1].se3, strict=True))
    assert draws[0].colour.shape == (3, 4 * 8 * 8, 3)
    assert draws[0].colour.abs().max() <= tiny.config.colour_noise
    assert draws[0].rot_token_shift.max() <= 0


def test_full_turns_of_the_scene_turn_the_label(tiny):
    batch = _random_batch(tiny.config, 1)
    quaternion = bins_to_quat(torch.tensor([[36, 36, 36]]))
    batch = Batch(
        observation=batch.observation,
        target=dataclasses.replace(batch.target, pose=torch.cat([batch.target.pose[:, :3], quaternion], dim=1)),
    )
    turn = SE3Draws(torch.zeros(1, 3), torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1))
    lesson = tiny._teach(batch, TrainNoise(se3=turn))
    assert [lesson.labels[name].item() for name in ("rot-x", "rot-y", "rot-z")] == [36, 36, 27]


def test_scene_without_any_point_is_acted_on(tiny):
    observation = _random_observation(tiny.config, 2)
    observation = dataclasses.replace(
        observation, point_cloud={name: torch.full_like(x, torch.nan) for name, x in observation.point_cloud.items()}
    )
    assert tiny.act(observation).action.isfinite().all()


@pytest.mark.parametrize("change", [{"drop_outside": False}, {"place_with_mean": True}])
def test_placement_options_arrive_and_the_action_stays_in_the_world(tiny, change):
    policy = ARP(dataclasses.replace(tiny.config, **change))
    policy.load_state_dict(tiny.state_dict())
    observation = _random_observation(policy.config, 2)
    shifted = dataclasses.replace(
        observation, point_cloud={name: x + 0.05 for name, x in observation.point_cloud.items()}
    )
    plain, other = tiny.act(shifted), policy.act(shifted)
    assert not torch.equal(plain.hidden["e"], other.hidden["e"])
    scene = policy.draw(shifted).scene
    torch.testing.assert_close(scene.into_world(scene.into_cube(other.action[:, :3])), other.action[:, :3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": (*CAMERAS, "overhead")}, "lacks camera 'overhead'"),
        ({"language_width": 60}, r"language is \(16, 64\), this policy takes \(16, 60\)"),
        ({"state_width": 4}, "state has 3 values, this policy takes 4"),
    ],
)
def test_observations_that_do_not_fit_are_refused(change, message):
    observation = _random_observation(ARPConfig.tiny(), 1)
    with pytest.raises(ConfigError, match=message):
        ARP(dataclasses.replace(ARPConfig.tiny(), **change)).act(observation)


def test_initialisation_follows_the_rules_and_the_generator_alone():
    config = ARPConfig.tiny()
    first, second = ARP(config), ARP(config)
    for policy in (first, second):
        policy.init_weights(torch.Generator().manual_seed(11))
    for name, x in first.state_dict().items():
        assert torch.equal(x, second.state_dict()[name]), name
    second.init_weights(torch.Generator().manual_seed(12))
    assert not torch.equal(first.mvt2.pos_encoding, second.mvt2.pos_encoding)
    assert first.zero_gates()
    linear = first.policy.blocks[3].attn.c_attn
    assert linear.weight.abs().max() <= (6 / (64 + 192)) ** 0.5
    assert not linear.bias.any()
    assert first.policy.pos_emb.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert first.mvt1.pos_encoding.std().item() == pytest.approx(1.0, rel=0.1)
    assert (first.policy.final_ln.weight == 1).all()
    assert not first.mvt1.patchify.conv2d.bias.any()
    assert first.mvt1.patchify.conv2d.weight.abs().max() <= (6 / (1 + 0.02**2) / (10 * 6 * 6)) ** 0.5
    assert first.policy.token_predictors["1"].upsample.net_out[0].bias.any()
    fresh = ARP(config)
    fresh.policy.token_embedders[3].div_term.fill_(3.0)
    fresh.init_weights(torch.Generator().manual_seed(11))
    assert torch.equal(fresh.policy.token_embedders[3].div_term, first.policy.token_embedders[3].div_term)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_the_same_action_and_states(piece):
    golden = piece("full_arp")
    policy, observation = _load(golden), _pair(golden.arrays)
    expected = policy.act(observation)
    found = policy.cuda().act(observation.to("cuda"))
    torch.testing.assert_close(found.action.cpu(), expected.action, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.hidden["e"].cpu(), expected.hidden["e"], rtol=1e-2, atol=1e-2)
