import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError, DataError
from mnprobe.data import FrameData, open_dataset, write_episode
from mnprobe.data.pickling import dumps
from mnprobe.data.records import ArrayRecord, make_array
from mnprobe.data.unpickle import load
from mnprobe.features import EXTRACTORS, ExtractorSpec, HookInputs, extract
from mnprobe.features.extractors.arp import ARPExtractor
from mnprobe.features.extractors.hook import HookExtractor
from mnprobe.features.extractors.pixels import PixelExtractor, area_average
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.inputs import (
    arrays_of_frame,
    arrays_of_frame_data,
    choose_frames,
    language_encoder_for,
    read_clip,
)
from mnprobe.models.arp import ARP, ARPConfig, FrameArrays, Target, load_arp, observation_from_frames, save_arp
from mnprobe.models.clip import LanguageConfig, WordVectors
from mnprobe.models.untrained import untrained_arp, untrained_viclip
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, preprocess, recognise

SEEN = {"camera": "front", "frames_rule": "middle"}
TOLD = dict(ARPExtractor.option_defaults)


@pytest.fixture(scope="module")
def dataset(demos):
    return open_dataset(demos)


@pytest.fixture(scope="module")
def viclip_model():
    config = replace(ViCLIPConfig.tiny(), frames=8, image_size=64, crop=(0.25, 0.0, 1.0, 0.75))
    return ViCLIP(config, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def arp_model():
    policy = ARP(ARPConfig.tiny())
    policy.init_weights(torch.Generator().manual_seed(0))
    return policy.eval()


def run(extractor, episodes):
    return extractor.compute(extractor.prepare(episodes))


def slow_clip(episode, camera="front", count=8):
    """The middle frames of equal parts, chosen and read one by one."""
    on_disk = episode.frames_on_disk(camera)
    if len(on_disk) < count:
        chosen = [on_disk[min(i, len(on_disk) - 1)] for i in range(count)]
    else:
        borders = [int(i * len(on_disk) / count) for i in range(count + 1)]
        chosen = [on_disk[(borders[i] + borders[i + 1] - 1) // 2] for i in range(count)]
    return np.stack([episode.frame(i).rgb[camera] for i in chosen])


def test_known_extractors_are_listed_and_misspelled_ones_get_a_hint():
    assert {"viclip", "arp", "hf", "hook", "pixels"} <= set(EXTRACTORS.names())
    for name in ("viclip", "arp", "hf", "hook", "pixels"):
        assert EXTRACTORS.load(name).kind == name
    with pytest.raises(ConfigError, match=r"unknown extractor 'viclp'. Did you mean 'viclip'\?"):
        EXTRACTORS.load("viclp")


def test_viclip_features_are_those_of_the_model_called_by_hand(dataset, viclip_model):
    candidates = tuple(sorted({episode.instruction for episode in dataset}))
    layers = ("u", "cls", "blocks.1")
    sizes = viclip_model.config
    spec = ExtractorSpec(config=sizes.to_dict(), layers=layers, options=SEEN, candidates=candidates)
    extractor = ViCLIPExtractor.build(spec)
    found = run(extractor, dataset)
    clips = torch.stack([preprocess(slow_clip(episode), size=64, crop=sizes.crop) for episode in dataset])
    expected = viclip_model.video_hidden(clips, layers)
    recognised = recognise(viclip_model, clips, candidates).labels[:, 0]
    for i, episode in enumerate(found):
        for name in layers:
            tokens = episode.layers[name]
            assert tokens.keyframe.tolist() == [0]
            np.testing.assert_allclose(tokens.values, expected[name][i : i + 1].detach(), rtol=1e-5, atol=1e-6)
        assert episode.prediction == candidates[recognised[i]]
    repeated = [episode.counts["episodes_with_repeated_frames"] for episode in found]
    assert repeated == [int(len(episode) < 8) for episode in dataset]
    assert sum(repeated) == 1
    assert extractor.describe()["image_size"] == 64


def test_tubelets_and_their_crop_reach_features_and_recognition(dataset):
    """The checkpoint's own settings decide what is cut out, how many frames are read, and what a token spans."""
    sizes = replace(ViCLIPConfig.tiny(), frames=8, tubelet=4, image_size=48, crop=(0.5, 0.11, 0.94, 0.89))
    spec = ExtractorSpec(config=sizes.to_dict(), layers=("u",), options=SEEN, candidates=("lift", "tap"))
    extractor = ViCLIPExtractor.build(spec)
    found = run(extractor, dataset[:2])
    clips = torch.stack([preprocess(slow_clip(episode), size=48, crop=sizes.crop) for episode in dataset[:2]])
    model = untrained_viclip(sizes, 0)
    recognised = recognise(model, clips, ("lift", "tap")).labels[:, 0]
    for i, episode in enumerate(found):
        with torch.no_grad():
            expected = model.encode_video(clips[i : i + 1])
        np.testing.assert_allclose(episode.layers["u"].values, expected, rtol=1e-5, atol=1e-6)
        assert episode.prediction == ("lift", "tap")[recognised[i]]


def test_viclip_recognition_does_not_need_u_among_the_layers(dataset):
    spec = ExtractorSpec(preset="tiny", layers=("blocks.0",), options=SEEN, candidates=("a", "b"))
    found = run(ViCLIPExtractor.build(spec), dataset[:2])
    assert set(found[0].layers) == {"blocks.0"}
    assert found[0].prediction in ("a", "b")


def test_viclip_without_candidates_predicts_nothing(dataset):
    found = run(ViCLIPExtractor.build(ExtractorSpec(preset="tiny", options=SEEN)), dataset[:1])
    assert found[0].prediction is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("blocks.9",)}, r"unknown ViCLIP layer 'blocks.9'. Did you mean 'blocks"),
        ({"preset": "huge"}, "unknown preset of viclip 'huge'. .*Known: b16, l14, tiny"),
        ({"options": SEEN | {"frames_rule": "every"}}, "unknown value for option 'frames_rule': 'every'"),
        ({"candidates": ("a", "a")}, "must differ"),
    ],
)
def test_viclip_refuses_what_it_has_not(changes, message):
    with pytest.raises(ConfigError, match=message):
        ViCLIPExtractor.build(ExtractorSpec(**({"preset": "tiny", "options": SEEN} | changes)))


def test_only_frames_on_disk_are_used(tmp_path, write_demo):
    write_demo(tmp_path, "t", 0, "", 0, "do it", 20, images=[0, 3, 7])
    write_demo(tmp_path, "t", 0, "", 1, "do it", 20, images={"wrist": "all"})
    trimmed, blind = open_dataset(tmp_path)
    clip = read_clip(trimmed, "front", 8, "middle")
    assert clip.repeated
    nearest = (0, 3, 3, 7, 7, 7, 7, 7)  # to the instants 0, 3, 5, 8, 10, 13, 15, 18
    np.testing.assert_array_equal(clip.frames, [trimmed.frame(i).rgb["front"] for i in nearest])
    with pytest.raises(DataError, match="no images of camera 'front'"):
        read_clip(blind, "front", 8, "middle")


def test_images_numbered_from_1_are_refused(tmp_path, write_demo):
    folder = write_demo(tmp_path, "t", 0, "", 0, "do it", 20) / "front_rgb"
    for number in range(19, -1, -1):
        (folder / f"{number}.png").rename(folder / f"{number + 1:06d}.png")
    message = r"camera 'front' has an image of frame 20, but low_dim_obs.pkl has 20 frames, 0 to 19.* numbered from 0"
    with pytest.raises(DataError, match=message):
        read_clip(open_dataset(tmp_path)[0], "front", 8, "middle")


def test_a_variation_without_episodes_is_noted_by_extract(tmp_path, write_demo):
    write_demo(tmp_path / "d", "t", 0, "", 0, "do it", 8)
    (tmp_path / "d" / "other" / "all_variations" / "episodes").mkdir(parents=True)
    said = []
    extract(tmp_path / "d", out=tmp_path / "p.h5", models=["pixels"], note=said.append)
    assert [text for text in said if "other/all_variations/episodes: no folder episode<N> in it" in text]


def _spoiled(folder, **changes):
    """Write other values into every observation of an episode; None leaves a field out."""
    path = folder / "low_dim_obs.pkl"
    demo = load(path, allow="demo")
    for observation in demo.attributes["_observations"]:
        held = observation.attributes | observation.attributes["misc"]
        arrays = {name: make_array(value) for name, value in held.items() if isinstance(value, ArrayRecord)}
        observation.attributes["misc"] |= {k: v for k, v in arrays.items() if k in observation.attributes["misc"]}
        observation.attributes |= {k: v for k, v in arrays.items() if k in observation.attributes} | changes
    path.write_bytes(dumps(demo))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"joint_positions": np.zeros(6), "joint_velocities": np.full(6, 0.5), "gripper_matrix": np.eye(4)[:3]}, None),
        ({"joint_positions": None, "gripper_matrix": None, "task_low_dim_state": np.array([np.nan])}, None),
        ({"joint_positions": np.full(7, np.nan)}, None),
        (
            {"gripper_joint_positions": np.zeros(1)},
            r"gripper_joint_positions of frame 0 has shape \(1,\), expected \(2,\)",
        ),
        ({"gripper_pose": np.zeros(6)}, r"gripper_pose of frame 0: has shape \(6,\), expected \(7,\)"),
        ({"joint_velocities": None}, "joint_velocities is missing"),
        ({"gripper_open": np.nan}, "gripper_open of frame 0 holds a number that is not finite"),
        ({"misc": None}, "field misc has no camera 'front'"),
    ],
)
def test_an_extractor_asks_only_for_the_fields_that_it_needs(tmp_path, write_demo, arp_model, changes, text):
    folder = write_demo(tmp_path, "t", 0, "", 0, "do it", 12)
    before = open_dataset(tmp_path)[0]
    pixels = PixelExtractor.build(ExtractorSpec(options=PixelExtractor.option_defaults))
    language = language_encoder_for(arp_model.config, weights=None)
    arp = ARPExtractor(arp_model, language, ExtractorSpec(preset="tiny", options=ARPExtractor.option_defaults))
    seen, thought = run(pixels, [before]), run(arp, [before])
    _spoiled(folder, **changes)
    after = open_dataset(tmp_path)[0]
    np.testing.assert_array_equal(run(pixels, [after])[0].layers["u"].values, seen[0].layers["u"].values)
    if text is None:
        np.testing.assert_array_equal(run(arp, [after])[0].layers["e"].values, thought[0].layers["e"].values)
    else:
        with pytest.raises(DataError, match=rf"low_dim_obs\.pkl: (field )?{text}"):
            run(arp, [after])


def test_a_world_frame_gives_the_arrays_that_its_episode_gives(tmp_path, write_demo):
    """Points of a camera off the middle, from the frame as it is and from the episode that it was written to."""
    made = open_dataset(write_demo(tmp_path / "a", "t", 0, "", 0, "do it", 6).parent)[0]
    lens = np.array([[-14.8, 0, 7.3], [0, -14.2, 8.9], [0, 0, 1]])
    frames = [
        FrameData(
            gripper_pose=frame.gripper_pose,
            gripper_open=frame.gripper_open,
            joint_velocities=frame.joint_velocities,
            gripper_joint_positions=[0.04, 0.03],
            cameras={"front": replace(frame.camera("front"), intrinsics=lens, size=None)},
            rgb={"front": frame.rgb["front"]},
            depth={"front": frame.depth64("front")},
        )
        for frame in (made.frame(index) for index in range(6))
    ]
    for number, size in enumerate((None, (16, 16), (32, 24))):
        sized = [replace(f, cameras={"front": replace(f.cameras["front"], size=size)}) for f in frames]
        write_episode(tmp_path / "b", task="t", variation=0, episode=number, instructions=["do it"], frames=sized)
        episode = open_dataset(tmp_path / "b")[number]
        for index, frame in enumerate(sized):
            one, other = arrays_of_frame_data(frame, ["front"]), arrays_of_frame(episode.frame(index), ["front"])
            np.testing.assert_array_equal(one.points["front"], other.points["front"], strict=True)
            np.testing.assert_array_equal(one.state, other.state, strict=True)
    with pytest.raises(ConfigError, match=r"gripper_joint_positions have shape \(1,\), expected \(2,\)"):
        arrays_of_frame_data(replace(frames[0], gripper_joint_positions=[0.04]), ["front"])


def test_frames_are_chosen_by_rule():
    frames = tuple(range(20))
    assert choose_frames(frames, 20, 8) == (0, 3, 5, 8, 10, 13, 15, 18)
    assert choose_frames(frames, 20, 8, "strided") == (0, 2, 4, 6, 8, 10, 12, 14)
    assert choose_frames((0, 1), 2, 3, "strided") == (0, 1, 1)
    assert choose_frames((0, 2, 9, 11, 19), 20, 4) == (2, 9, 11, 19)  # extra images do not change the pace


def _arp_by_hand(policy, episodes, decoding, told):
    language = language_encoder_for(policy.config, weights=None)
    for episode in episodes:
        states = []
        for step in episode.steps():
            frame = episode.frame(step.observed)
            arrays = FrameArrays(
                {name: frame.rgb[name] for name in episode.cameras},
                {name: frame.points(name) for name in episode.cameras},
                frame.state(),
            )
            observation = observation_from_frames(
                [arrays], language([told(episode)]), stride=policy.config.point_stride
            )
            target = Target(
                pose=torch.tensor(step.gripper_pose, dtype=torch.float32)[None],
                gripper_open=torch.tensor([step.gripper_open]),
                ignore_collisions=torch.tensor([step.ignore_collisions]),
            )
            hidden = policy.act(observation).hidden if decoding == "greedy" else policy.encode(observation, target)
            states.append({name: value.flatten(1, -2)[0].numpy() for name, value in hidden.items()})
        yield states


@pytest.mark.parametrize("decoding", ["greedy", "teacher"])
def test_arp_features_are_those_of_the_policy_called_by_hand(dataset, arp_model, decoding):
    layers = ("e", "norm", "blocks.3", "screen")
    spec = ExtractorSpec(preset="tiny", layers=layers, options=TOLD | {"decoding": decoding}, batch_size=3)
    extractor = ARPExtractor.build(spec)
    episodes = dataset[:2]
    found = run(extractor, episodes)
    expected = list(_arp_by_hand(arp_model, episodes, decoding, lambda episode: episode.instruction))
    for ours, by_hand in zip(found, expected, strict=True):
        assert len(by_hand) >= 2
        for name, count in zip(layers, (5, 5, 5, 6), strict=True):
            tokens = ours.layers[name]
            assert tokens.keyframe.tolist() == [k for k in range(len(by_hand)) for _ in range(count)]
            joined = np.concatenate([states[name] for states in by_hand])
            np.testing.assert_allclose(tokens.values, joined, rtol=1e-3, atol=1e-4)
        assert ours.prediction is None
    assert extractor.describe()["decoding"] == decoding
    assert extractor.describe()["language"]["trained"] is False


def test_a_blank_instruction_is_the_empty_text_for_all(dataset, arp_model):
    spec = ExtractorSpec(preset="tiny", options=TOLD | {"blank_instruction": True})
    found = run(ARPExtractor.build(spec), dataset[:1])
    by_hand = next(_arp_by_hand(arp_model, dataset[:1], "greedy", lambda episode: ""))
    told = run(ARPExtractor.build(ExtractorSpec(preset="tiny", options=TOLD)), dataset[:1])
    joined = np.concatenate([states["e"] for states in by_hand])
    np.testing.assert_allclose(found[0].layers["e"].values, joined, rtol=1e-3, atol=1e-4)
    assert not np.allclose(found[0].layers["e"].values, told[0].layers["e"].values, atol=1e-5)


def test_word_vectors_tell_the_policy_its_instruction_and_blank_is_zeros(dataset, tmp_path):
    config = replace(ARPConfig.tiny(), language_length=24, untrained_language="words", attention_gain=1.7)
    policy = untrained_arp(config, 3)
    path = tmp_path / "step_00000000.safetensors"
    language = language_encoder_for(config, weights=None, seed=5)
    save_arp(path, policy, step=0, extra={"language": json.dumps(language.describe())})
    assert load_arp(path).config == config
    options = TOLD | {"language_seed": 5}
    extractors = [
        ARPExtractor.build(ExtractorSpec(checkpoint=path, options=options | {"blank_instruction": blank}))
        for blank in (False, True)
    ]
    assert extractors[0].describe()["language"]["kind"] == "word-vectors"
    told, blank = (run(extractor, dataset[:2]) for extractor in extractors)
    assert not np.allclose(told[0].layers["e"].values, blank[0].layers["e"].values, atol=1e-5)
    for episode, found, unseen in zip(dataset[:2], told, blank, strict=True):
        step = next(iter(episode.steps()))
        frame = arrays_of_frame(episode.frame(step.observed), config.cameras)
        observation = observation_from_frames(
            [frame], WordVectors(length=24, width=64, seed=5)([episode.instruction]), stride=config.point_stride
        )
        expected = load_arp(path).act(observation).hidden["e"][0]
        np.testing.assert_allclose(found.layers["e"].values[:5], expected, rtol=1e-3, atol=1e-4)
        zeros = load_arp(path).act(observation.with_language(torch.zeros(1, 24, 64))).hidden["e"][0]
        np.testing.assert_allclose(unseen.layers["e"].values[:5], zeros, rtol=1e-3, atol=1e-4)


def test_arp_takes_episodes_of_different_image_size(tmp_path, write_demo):
    write_demo(tmp_path, "t", 0, "", 0, "do it", 6, size=16)
    write_demo(tmp_path, "t", 0, "", 1, "do it", 6, size=12)
    apart = [
        run(ARPExtractor.build(ExtractorSpec(preset="tiny", options=TOLD)), [e])[0] for e in open_dataset(tmp_path)
    ]
    joined = run(ARPExtractor.build(ExtractorSpec(preset="tiny", options=TOLD)), open_dataset(tmp_path))
    for a, b in zip(apart, joined, strict=True):
        np.testing.assert_allclose(a.layers["e"].values, b.layers["e"].values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("u",)}, "unknown ARP layer 'u'"),
        ({"layers": ("blocks.0",)}, "unknown ARP layer 'blocks.0'. Did you mean 'blocks"),  # a screen pass's block
        ({"preset": "b16"}, "unknown preset of arp 'b16'"),
        ({"options": TOLD | {"decoding": "beam"}}, "unknown value for option 'decoding': 'beam'"),
    ],
)
def test_arp_refuses_what_it_has_not(changes, message):
    with pytest.raises(ConfigError, match=message):
        ARPExtractor.build(ExtractorSpec(**({"preset": "tiny", "options": TOLD} | changes)))


def test_arp_checkpoints_remember_their_language(tmp_path, arp_model):
    path = tmp_path / "step_00000000.safetensors"
    right = language_encoder_for(arp_model.config, weights=None).describe()
    save_arp(path, arp_model, step=0, extra={"language": json.dumps(right)})
    assert ARPExtractor.build(ExtractorSpec(checkpoint=path, options=TOLD)).policy.config == load_arp(path).config
    with pytest.raises(CheckpointError, match="was trained with the language encoder"):
        ARPExtractor.build(ExtractorSpec(checkpoint=path, options=TOLD | {"language_seed": 5}))


def test_language_of_another_size_is_refused(tmp_path, arp_model):
    from mnprobe.models.clip import random_language_encoder

    other = random_language_encoder(LanguageConfig(context=16, width=128, layers=1, heads=2, embed_dim=8))
    torch.save(other.text.state_dict(), tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="gives language tokens of 16 x 128, the policy reads 16 x 64"):
        language_encoder_for(arp_model.config, weights=tmp_path / "clip.pt")


def test_area_average_equals_the_loops():
    frames = np.random.default_rng(0).integers(0, 256, (2, 10, 14, 3), dtype=np.uint8)
    fine = np.kron(frames, np.ones((1, 4, 4, 1)))  # every pixel cut into 4 x 4, so that areas hold whole ones
    expected = np.zeros((2, 4, 4, 3))
    for i in range(4):
        for j in range(4):
            expected[:, i, j] = fine[:, 10 * i : 10 * i + 10, 14 * j : 14 * j + 14].mean(axis=(1, 2))
    np.testing.assert_allclose(area_average(frames, 4), expected)


def test_pixels_are_the_frames_that_viclip_sees(dataset):
    options = dict(PixelExtractor.option_defaults) | {"size": 4}
    found = run(PixelExtractor.build(ExtractorSpec(options=options)), dataset)
    for ours, episode in zip(found, dataset, strict=True):
        expected = slow_clip(episode).reshape(8, 4, 4, 4, 4, 3).mean(axis=(2, 4)) / 255
        np.testing.assert_allclose(ours.layers["u"].values, expected.reshape(1, -1), rtol=1e-6)
    with pytest.raises(ConfigError, match="option 'size' must be a whole number from 1 to 1024, got 0"):
        PixelExtractor.build(ExtractorSpec(options=options | {"size": 0}))
    with pytest.raises(ConfigError, match="is no model and takes no checkpoint"):
        PixelExtractor.build(ExtractorSpec(options=options, checkpoint=Path("x.pth")))


HOOKED = '''
import torch
from torch import nn
from mnprobe.features import HookInputs, HookTarget

class Twice(nn.Module):
    """Runs one layer twice, another never, and returns a tuple from a third."""

    def __init__(self, dim):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(dim, 4), nn.ReLU())
        self.again = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.pair = Pair()
        self.flat = nn.Flatten(0)

    def forward(self, x):
        x = self.encoder(x)
        x = self.again(self.again(x))
        self.flat(x)
        return self.pair(x)[0].mean(dim=1) if x.ndim == 3 else self.pair(x)[0]

class Pair(nn.Module):
    def forward(self, x):
        return 2 * x, x.sum()

def factory(checkpoint, dim=3, rows=1, tokens=0, kind="tensor"):
    torch.manual_seed(3)
    def prepare(episodes):
        count = len(episodes) * rows
        shape = (count, tokens, dim) if tokens else (count, dim)
        x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape) / 10
        if kind == "bad":
            return "text"
        if kind == "short":
            return HookInputs(args=(x,), lengths=[1])
        if kind == "inputs":
            return HookInputs(kwargs={"x": x}, lengths=[rows] * len(episodes))
        return x if kind == "tensor" else (x,)
    return HookTarget(module=Twice(dim), prepare=prepare, describe={"checkpoint": str(checkpoint)})

def wrong(checkpoint):
    return 3
'''


@pytest.fixture
def hooked(tmp_path, monkeypatch):
    (tmp_path / "hooked_models.py").write_text(HOOKED)
    monkeypatch.syspath_prepend(tmp_path)

    def build(layers=(), factory="hooked_models:factory", **arguments):
        options = {"factory": factory, "side": "execution", "arguments": arguments}
        return HookExtractor.build(ExtractorSpec(layers=layers, options=options))

    return build


def test_a_hook_taps_layers_by_name(hooked, dataset):
    extractor = hooked(("encoder.0", "again", "pair", "output"))
    found = run(extractor, dataset[:2])
    module, x = extractor.target.module, torch.arange(6.0).reshape(2, 3) / 10
    with torch.no_grad():
        first = module.encoder[0](x)
        once = module.again(first.relu())
        twice = module.again(once)
    for i, episode in enumerate(found):
        np.testing.assert_array_equal(episode.layers["encoder.0"].values, first[i : i + 1])
        np.testing.assert_array_equal(episode.layers["again"].values, torch.stack([once[i], twice[i]]))
        np.testing.assert_array_equal(episode.layers["pair"].values, 2 * twice[i : i + 1])
        np.testing.assert_array_equal(episode.layers["output"].values, 2 * twice[i : i + 1])
    assert extractor.describe() == {"model": "hooked_models:factory", "checkpoint": "None"}
    assert not module.encoder[0]._forward_hooks


@pytest.mark.parametrize("kind", ["tensor", "tuple"])
def test_tokens_of_a_hooked_layer_stay_in_order(hooked, dataset, kind):
    found = run(hooked(("encoder",), tokens=5, kind=kind), dataset[:3])
    assert [episode.layers["encoder"].values.shape for episode in found] == [(5, 4)] * 3
    assert found[0].layers["encoder"].keyframe.tolist() == [0] * 5


def test_rows_of_one_episode_are_its_keyframes(hooked, dataset):
    found = run(hooked(("encoder",), tokens=2, rows=3, kind="inputs"), dataset[:2])
    whole = run(hooked(("encoder",), tokens=2, rows=1), [*dataset[:3], *dataset[:3]])
    assert found[1].layers["encoder"].keyframe.tolist() == [0, 0, 1, 1, 2, 2]
    joined = np.concatenate([episode.layers["encoder"].values for episode in whole[3:]])
    np.testing.assert_array_equal(found[1].layers["encoder"].values, joined)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ("encoder.7",)}, "unknown layer 'encoder.7'. Did you mean 'encoder"),
        ({"layers": ("never",)}, "layer 'never' did not run in the forward pass"),
        ({"layers": ("flat",)}, r"layer 'flat' gave \(8,\); needed is \(2, D\)"),
        ({"kind": "bad"}, "prepare must return HookInputs, a tensor or a tuple, got str"),
        ({"kind": "short"}, "must give >= 1 rows to each of 2 episodes"),
        ({"factory": None}, "needs --factory"),
        ({"factory": "hooked_models:wrong"}, "must return a mnprobe.features.HookTarget, got int"),
        ({"factory": "hooked_models:factry"}, "Did you mean 'factory'"),
        ({"factory": "no_such_module:x"}, "cannot import 'no_such_module'"),
        ({"factory": "nothing"}, "must be written as 'package.module:name'"),
    ],
)
def test_a_hook_says_what_is_wrong(hooked, dataset, arguments, message):
    with pytest.raises(Exception, match=message):
        run(hooked(**arguments), dataset[:2])


def test_a_hook_on_viclip_gives_what_the_viclip_extractor_gives(tmp_path, monkeypatch, dataset):
    (tmp_path / "by_hook.py").write_text(
        "import torch\n"
        "from mnprobe.features import ExtractorSpec, HookTarget\n"
        "from mnprobe.features.extractors.viclip import ViCLIPExtractor\n"
        "def factory(checkpoint):\n"
        "    known = ViCLIPExtractor.build(ExtractorSpec(preset='tiny', options="
        "{'camera': 'front', 'frames_rule': 'middle'}))\n"
        "    return HookTarget(module=known.model.vision_encoder, prepare=lambda e: known.prepare(e).clips)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"factory": "by_hook:factory", "side": "understanding", "arguments": {}}
    hooked = run(HookExtractor.build(ExtractorSpec(options=options)), dataset)
    known = run(ViCLIPExtractor.build(ExtractorSpec(preset="tiny", options=SEEN)), dataset)
    for a, b in zip(hooked, known, strict=True):
        np.testing.assert_array_equal(a.layers["output"].values, b.layers["u"].values)


def test_hook_inputs_default_to_one_row_each():
    assert HookInputs().lengths is None


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("precision", "fp8")])
def test_impossible_specs_are_refused(field, value):
    with pytest.raises(ConfigError, match=str(value)):
        ExtractorSpec(**{field: value})
