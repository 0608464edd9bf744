"""A micro dataset of the tabletop (two tasks, four instructions, eight demonstrations of 32-pixel images), models small
enough for hundreds of passes, and an update's inputs for them."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mnprobe.data import open_dataset
from mnprobe.models.arp import ARP, ARPConfig, Batch, Observation, SE3Draws, Target, TrainNoise
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig
from mnprobe.probe import AlignmentHeads
from mnprobe.training.config import TrainConfig
from mnprobe.training.model import JointModel, StepInputs, StepSettings
from mnprobe.training.optimizers import OptimizerConfig
from mnprobe.worlds.demos import DemosConfig, write_demos


@pytest.fixture(scope="session")
def micro_demos(tmp_path_factory):
    """Folder of two demonstrations of each of four instructions, of two tasks, all in train."""
    folder = tmp_path_factory.mktemp("micro") / "demos"
    config = DemosConfig(
        options={"image_size": 32, "renderer": "rays"},
        tasks=("open_drawer", "slide_block_to_color_target"),
        variations=(0, 1),
        train=2,
    )
    write_demos(folder, config, workers=0, quiet=True)
    return folder


@pytest.fixture(scope="session")
def micro_dataset(micro_demos):
    """The same, opened."""
    return open_dataset(micro_demos)


@pytest.fixture(scope="session")
def micro_viclip():
    """Sizes of a video model of a few thousand weights."""
    return ViCLIPConfig(
        image_size=16,
        patch_size=8,
        frames=2,
        width=16,
        layers=2,
        heads=2,
        embed_dim=8,
        text_context=6,
        vocabulary=40,
        text_width=8,
        text_layers=1,
        text_heads=2,
    )


@pytest.fixture(scope="session")
def micro_arp():
    """Sizes of a policy of some ten thousand weights, without dropout."""
    return ARPConfig(
        cameras=("front", "wrist"),
        image_size=28,
        patch_size=7,
        vision_width=16,
        vision_heads=2,
        vision_head_width=8,
        vision_depth=2,
        language_length=3,
        language_width=8,
        width=16,
        heads=2,
        cross_blocks=1,
        self_blocks=1,
        rotation_bins=12,
        render_radius=0.1,
        dropout=0.0,
    )


@pytest.fixture
def micro_model(micro_viclip, micro_arp):
    """`micro_model()` makes a joint model; equal calls give equal weights."""

    def make(*, stochastic_depth=0.0, dropout=0.0, dim=12):
        viclip = ViCLIP(replace(micro_viclip, stochastic_depth=stochastic_depth))
        arp = ARP(replace(micro_arp, dropout=dropout))
        generator = torch.Generator().manual_seed(1)
        arp.init_weights(generator)
        with torch.no_grad():  # gates that start at zero would hide the conditioned blocks
            for p in arp.policy.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=generator))
        heads = AlignmentHeads(viclip.config.embed_dim, arp.config.width, dim)
        return JointModel(viclip=viclip, arp=arp, heads=heads)

    return make


@pytest.fixture
def make_inputs(micro_viclip, micro_arp):
    """Six clips and transitions of three instructions; options are those of StepSettings."""

    def make(**settings):
        generator = torch.Generator().manual_seed(7)

        def uniform(*shape):
            return torch.rand(shape, generator=generator)

        size, low = 6, torch.tensor([-0.3, -0.5, 0.6])
        batch = Batch(
            observation=Observation(
                point_cloud={c: uniform(size, 3, 8, 8) + low.view(3, 1, 1) for c in micro_arp.cameras},
                rgb={c: (256 * uniform(size, 3, 8, 8)).to(torch.uint8) for c in micro_arp.cameras},
                language=uniform(size, micro_arp.language_length, micro_arp.language_width),
                state=uniform(size, 3),
            ),
            target=Target(
                pose=torch.cat(
                    [0.5 * uniform(size, 3) + low + 0.25, F.normalize(uniform(size, 4) - 0.5, dim=1)], dim=1
                ),
                gripper_open=torch.tensor([0, 1, 1, 0, 1, 0]),
                ignore_collisions=torch.tensor([1, 1, 0, 0, 1, 0]),
            ),
        )
        frames, side = micro_viclip.frames, micro_viclip.image_size
        text_ids = torch.randint(1, 39, (3, micro_viclip.text_context), generator=generator)
        return StepInputs(
            clips=2 * uniform(size, frames, 3, side, side) - 1,
            text_ids=text_ids,
            text_of=torch.tensor([0, 1, 0, 2, 1, 1]),
            clip_ids=torch.tensor([5, 9, 5, 11, 9, 9]),
            batch=batch,
            noise=TrainNoise.draw(generator, batch, micro_arp),
            pair_groups=torch.tensor([5, 9, 5, 11, 9, 9]),
            settings=StepSettings(**settings),
        )

    return make


@pytest.fixture(scope="session")
def take_rows():
    """Some rows of an update's inputs: those of clips, of transitions, and of pair groups."""

    def take(inputs, *, clips, transitions, pairs):
        observation, target, noise = inputs.batch.observation, inputs.batch.target, inputs.noise
        texts, text_of = inputs.text_of[clips].unique(return_inverse=True)
        return StepInputs(
            clips=inputs.clips[clips],
            text_ids=inputs.text_ids[texts],
            text_of=text_of,
            clip_ids=inputs.clip_ids[clips],
            batch=Batch(
                observation=Observation(
                    point_cloud={c: x[transitions] for c, x in observation.point_cloud.items()},
                    rgb={c: x[transitions] for c, x in observation.rgb.items()},
                    language=observation.language[transitions],
                    state=observation.state[transitions],
                ),
                target=Target(
                    pose=target.pose[transitions],
                    gripper_open=target.gripper_open[transitions],
                    ignore_collisions=target.ignore_collisions[transitions],
                ),
            ),
            noise=TrainNoise(
                waypoint_noise_unit=noise.waypoint_noise_unit[transitions],
                rot_token_shift=noise.rot_token_shift[transitions],
                colour=noise.colour[transitions],
                se3=SE3Draws(*(part[transitions] for part in noise.se3)),
            ),
            pair_groups=inputs.pair_groups[pairs],
            settings=inputs.settings,
        )

    return take


@pytest.fixture(scope="session")
def micro():
    """A training of the smallest models that train in seconds; any setting can be replaced."""

    def make(**changes):
        settings = {
            "viclip": ViCLIPConfig(
                image_size=28,
                patch_size=14,
                frames=2,
                width=16,
                layers=1,
                heads=2,
                embed_dim=12,
                text_context=12,
                text_width=16,
                text_layers=1,
                text_heads=2,
            ),
            "arp": ARPConfig(
                image_size=28,
                patch_size=14,
                vision_width=16,
                vision_heads=2,
                vision_head_width=8,
                vision_depth=2,
                language_length=12,
                language_width=16,
                width=16,
                heads=2,
                cross_blocks=1,
                self_blocks=1,
                render_radius=0.096,
            ),
            "updates": 6,
            "batch": 4,
            "understanding_share": 0.5,
            "dim": 8,
            "text_share": 1.0,
            "video": OptimizerConfig(kind="adamw", lr=1e-3, warmup=2),
            "policy": OptimizerConfig(kind="adamw", lr=1e-3, warmup=2),
            "align": OptimizerConfig(kind="adamw", lr=1e-3),
            "augment": "shift",
            "colour_noise": False,
            "checkpoints": (0.0, 0.5, 1.0),
        }
        return TrainConfig(**(settings | changes))

    return make
