"""ARP: from camera images and an instruction to a key pose, in two zoom stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.augment import noisy_zoom_centre, se3_augment, shift_bins
from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.decode import decode_point
from mnprobe.models.arp.drawing import Drawing, KeptViews, draw_scene, draw_zoomed
from mnprobe.models.arp.heatmap import label_heatmap
from mnprobe.models.arp.init import init_policy, init_vision
from mnprobe.models.arp.losses import class_cross_entropy, heatmap_cross_entropy
from mnprobe.models.arp.mvt import VIEWS, MultiViewTransformer
from mnprobe.models.arp.noise import TrainNoise
from mnprobe.models.arp.observation import Batch, Observation, Target
from mnprobe.models.arp.pointcloud import flatten_cameras, unzoom, zoom
from mnprobe.models.arp.renderer import with_place_channels
from mnprobe.models.arp.rotation import bins_to_quat, quat_to_bins
from mnprobe.models.arp.sampling import sample_map
from mnprobe.models.arp.tokens import ACTIONS, PROMPTS, SCREEN, TOKENS
from mnprobe.models.arp.transformer import ChunkTransformer, States
from mnprobe.models.arp.views import project

__all__ = ["ARP", "ActOutput", "TrainOutput"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ActOutput:
    """Prediction of the policy, for a batch of B.

    Attributes:
        action: (B, 9): position (world metres), quaternion (x, y, z, w), gripper open 0/1, ignore collisions 0/1.
        sequence: (B, 11, 2) int64: value and token type of each position (six prompts, three rotation bins, two flags).
        logits: for each action token name (B, classes).
        hidden: hidden states by tap name, see `ARP.encode`.
        heatmaps: (B, 2 stages, 3 views, S, S) logits of the screen points; None unless requested.
        waypoints: (B, 2 stages, 3): the point each stage chose, in its own frame (cube, then zoomed cube).
    """

    action: Tensor
    sequence: Tensor
    logits: dict[str, Tensor]
    hidden: dict[str, Tensor]
    waypoints: Tensor
    heatmaps: Tensor | None = None


class TrainOutput(NamedTuple):
    """Result of a training pass; gradients flow through both."""

    losses: dict[str, Tensor]
    """The seven named losses, in nats; their sum is L_EE."""
    hidden: dict[str, Tensor]
    """As `ARP.encode`; joint training aligns `hidden["e"]`."""


@dataclass(frozen=True, eq=False)
class _Observation:
    """Encoded images of one stage."""

    images: Tensor  # (B, 3, 10, S, S)
    maps: Tensor  # (B, 3, n, k, k)
    states: States  # (B * 3, 1, n)
    heatmaps: Tensor  # (B, 3, S, S) logits


@dataclass(frozen=True, eq=False)
class _TrainingTargets:
    """A teacher-forced pass over both stages."""

    sights: tuple[_Observation, _Observation]
    waypoints: tuple[Tensor, Tensor]  # labels (B, 3), each in its stage's frame
    star: States
    hat: States
    logits: dict[str, Tensor]
    labels: dict[str, Tensor]


class ARP(nn.Module):
    """The whole policy: two multi-view transformers (`mvt1`, `mvt2`) and one chunking causal transformer (`policy`).

    Stage one finds the point to go to in renderings of the whole workspace. Stage two zooms in on that point, localises
    it more exactly, reads six prompt vectors from its feature maps, and predicts the rotation (three bins), the gripper
    and the collision flag one chunk after the other.

    The constructor uses PyTorch's default initialisation; call `init_weights` to train from scratch, or use `load_arp`.
    Parameter names and nesting are those of the published weights. Every method works for any batch size, on the device
    where the model is. In `train()` mode dropout is on, and draws from PyTorch's global generator of the device.

    Source: Zhang et al. 2024 (ARP, arXiv 2410.03132); specs/arp.md.
    """

    def __init__(self, config: ARPConfig) -> None:
        super().__init__()
        self.config = config
        self.mvt1 = MultiViewTransformer(config)
        self.mvt2 = MultiViewTransformer(config)
        self.policy = ChunkTransformer(config)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Set all weights for training from scratch, from `generator` alone (on the device of the model).

        The modulation layers of the conditioned blocks start at zero, as in the original. Until an optimiser moves them
        (a norm-capped LAMB never does), the screen-point states do not depend on the image; see
        `ChunkTransformer.zero_gates`.
        """
        for mvt in (self.mvt1, self.mvt2):
            init_vision(mvt, generator, self.config.attention_gain)
        init_policy(self.policy, generator)

    def zero_gates(self) -> bool:
        """Whether all modulation layers are zero, so that the "screen" states are blind; see `ChunkTransformer`."""
        return self.policy.zero_gates()

    @torch.no_grad()
    def draw(self, observation: Observation) -> Drawing:
        """The scene and its views of stage one, which do not depend on the weights; for `act` and `encode`.

        Raises:
            ConfigError: as `act`.
        """
        return draw_scene(*self._cloud(observation), self.config)

    @torch.no_grad()
    def act(self, observation: Observation, *, heatmaps: bool = False, drawing: Drawing | None = None) -> ActOutput:
        """The greedy action for each sample. Dropout is always off; no gradient.

        Args:
            observation: any batch; samples are independent.
            heatmaps: whether to return the screen-point logits as well.
            drawing: result of `draw` for this observation, with any language; drawn now if None.
        Raises:
            ConfigError: an observation that does not match the configuration or is on another device.
        """
        with _evaluating(self):
            self._check(observation)
            drawing = drawing or self.draw(observation)
            first = self._encode_images(0, drawing.views, observation)
            centre = _decode(first)
            second = self._encode_images(1, draw_zoomed(drawing.scene, centre, self.config), observation)
            point = _decode(second)
            done = self.policy.generate(self._prompts(second.maps, point))
        position = drawing.scene.into_world(unzoom(point, centre, self.config.zoom))
        quaternion = bins_to_quat(done.values[:, PROMPTS : PROMPTS + 3], self.config.rotation_resolution)
        flags = done.values[:, PROMPTS + 3 :].to(position)
        types = done.values.new_tensor(self.policy.layout.types).expand_as(done.values)
        return ActOutput(
            action=torch.cat([position, quaternion.to(position), flags], dim=1),
            sequence=torch.stack([done.values, types], dim=-1),
            logits=done.logits,
            hidden=_hidden(done.states, (first, second)),
            waypoints=torch.stack([centre, point], dim=1),
            heatmaps=torch.stack([first.heatmaps, second.heatmaps], dim=1) if heatmaps else None,
        )

    @torch.no_grad()
    def encode(
        self,
        observation: Observation,
        target: Target,
        noise: TrainNoise | None = None,
        *,
        drawing: Drawing | None = None,
    ) -> dict[str, Tensor]:
        """Hidden states with the true action fed in (teacher forcing). Dropout is always off; no gradient.

        Stage two zooms in on the target position, the prompts are read there, and each action token is predicted from
        the true earlier ones. On the same zoom centre, point and tokens these states equal those of `act` (one is a
        pass over all tokens at once, the other a step per chunk); they differ if the policy acts differently.

        Args:
            observation: any batch.
            target: the next key poses of the demonstration.
            noise: training noise to apply; none by default.
            drawing: result of `draw` for this observation, with any language; drawn now if None, or if noise changes
                the scene or its colours.
        Returns:
            By tap name, n being the policy's width:
            "e" (B, 5, n), the states of rot-x, rot-y, rot-z, grip, collision straight after the last block;
            "norm" (B, 5, n), the same after the final layer norm;
            "blocks.<i>" (B, 5, n), the same after block i, for the blocks that the action pass runs;
            "screen" (B, 2, 3, n), the screen-point states straight after the last conditioned block, by stage and view.
        Raises:
            ConfigError: a batch that does not match the configuration or is on another device.
        Source: specs/arp.md section 7.
        """
        with _evaluating(self):
            lesson = self._teach(Batch(observation=observation, target=target), noise or TrainNoise(), drawing)
        return _hidden(lesson.hat.at(PROMPTS, len(self.policy.layout)), lesson.sights)

    def losses(self, batch: Batch, noise: TrainNoise | None = None) -> dict[str, Tensor]:
        """The seven losses of `batch` under `noise` (none by default); their sum is L_EE. See `forward`."""
        return self.forward(batch, noise).losses

    def forward(self, batch: Batch, noise: TrainNoise | None = None) -> TrainOutput:
        """One training pass: named losses, and the hidden states of the same pass.

        Stage two zooms in on the noisy target, not on the prediction; no gradient flows through the rendering.

        Args:
            batch: observations and targets.
            noise: all random numbers except dropout (`TrainNoise.draw`).
        Returns:
            Losses "stage1-screen-pts.2d_ce_loss", "stage2-screen-pts.2d_ce_loss", "rot-x.ce_loss", "rot-y.ce_loss",
            "rot-z.ce_loss", "grip.ce_loss", "collision.ce_loss": means over the batch, in nats.
        Raises:
            ConfigError: as `encode`.
        Source: specs/arp.md section 8.
        """
        lesson = self._teach(batch, noise or TrainNoise())
        losses: dict[str, Tensor] = {}
        for kind, sight, waypoint in zip(SCREEN, lesson.sights, lesson.waypoints, strict=True):
            labels = self._heatmap_labels(waypoint)
            losses[f"{TOKENS[kind]}.2d_ce_loss"] = heatmap_cross_entropy(sight.heatmaps.flatten(0, 1), labels)
        for kind in ACTIONS:
            name = TOKENS[kind]
            losses[f"{name}.ce_loss"] = class_cross_entropy(lesson.logits[name], lesson.labels[name])
        return TrainOutput(losses, _hidden(lesson.hat.at(PROMPTS, len(self.policy.layout)), lesson.sights))

    def _teach(self, batch: Batch, noise: TrainNoise, drawing: Drawing | None = None) -> _TrainingTargets:
        config, observation, target = self.config, batch.observation, batch.target
        self._check(observation)
        pose = target.pose.float()
        if batch.views is not None:
            waypoint, centre = batch.views.waypoint, batch.views.centre
            first_views, second_views = _whole_views(batch.views, noise)
        else:
            if drawing is None or noise.se3 is not None or noise.colour is not None:
                drawing, pose = self._drawn(observation, pose, noise)
            waypoint = drawing.scene.into_cube(pose[:, :3])
            centre = waypoint
            if noise.waypoint_noise_unit is not None:
                centre = noisy_zoom_centre(waypoint, noise.waypoint_noise_unit, config.waypoint_noise)
            first_views, second_views = drawing.views, draw_zoomed(drawing.scene, centre, config)
        first = self._encode_images(0, first_views, observation)
        second = self._encode_images(1, second_views, observation)
        point = zoom(waypoint, centre, config.zoom)
        bins = quat_to_bins(pose[:, 3:], config.rotation_resolution)
        flags = torch.stack([target.gripper_open.long(), target.ignore_collisions.long()], dim=1)
        fed = bins if noise.rot_token_shift is None else shift_bins(bins, noise.rot_token_shift, config.rotation_bins)
        rows = torch.arange(PROMPTS, device=bins.device).expand(len(bins), -1)
        values = torch.cat([rows, fed, flags], dim=1)
        streams, logits = self.policy.teach(values, self._prompts(second.maps, point))
        labels = {TOKENS[kind]: column for kind, column in zip(ACTIONS, torch.cat([bins, flags], dim=1).T, strict=True)}
        return _TrainingTargets((first, second), (waypoint, point), streams.star, streams.hat, logits, labels)

    def _drawn(self, observation: Observation, pose: Tensor, noise: TrainNoise) -> tuple[Drawing, Tensor]:
        """Draw the scene under `noise`, which moves the target poses with it."""
        config = self.config
        points, rgb = self._cloud(observation)
        if noise.se3 is not None:
            points, pose = se3_augment(
                points,
                pose,
                **noise.se3._asdict(),
                bounds=config.bounds,
                trans_range=config.augment_translation,
                rotation_range=config.augment_rotation,
            )
        if noise.colour is not None:
            rgb = rgb + noise.colour
        return draw_scene(points, rgb, config), pose

    def _cloud(self, observation: Observation) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 3"]]:
        """All cameras' points (world metres) and colours (0..1), in the model's camera order."""
        self._check(observation)
        cameras = self.config.cameras
        clouds = [observation.point_cloud[camera] for camera in cameras]
        return flatten_cameras(clouds, [observation.rgb[camera] for camera in cameras])

    def _check(self, observation: Observation) -> None:
        config, device = self.config, self.mvt1.pos_encoding.device
        missing = [camera for camera in config.cameras if camera not in observation.rgb]
        if missing:
            raise ConfigError(
                f"the observation lacks camera {missing[0]!r}; this policy looks through {', '.join(config.cameras)}. "
                f"Found: {', '.join(observation.rgb)}"
            )
        language, state = tuple(observation.language.shape[1:]), observation.state.shape[1]
        if language != (config.language_length, config.language_width):
            raise ConfigError(
                f"the observation's language is {language}, this policy takes "
                f"{(config.language_length, config.language_width)} (tokens, width). Use its language encoder."
            )
        if state != config.state_width:
            raise ConfigError(f"the observation's state has {state} values, this policy takes {config.state_width}")
        if observation.device != device:
            raise ConfigError(
                f"the observation is on {observation.device}, the policy on {device}; move it with "
                f"observation.to({str(device)!r})"
            )

    def _encode_images(self, stage: int, images: Float[Tensor, "b 3 10 s s"], observation: Observation) -> _Observation:
        """Encode the views of a stage, and predict its screen points."""
        mvt = (self.mvt1, self.mvt2)[stage]
        maps: Tensor = mvt(images, observation.state, observation.language)
        states, heatmaps = self.policy.screen(stage, maps.flatten(0, 1))
        return _Observation(images, maps, states, heatmaps.view(-1, VIEWS, *heatmaps.shape[1:]))

    def _prompts(self, maps: Float[Tensor, "b 3 n k k"], point: Float[Tensor, "b 3"]) -> Float[Tensor, "b 6 n"]:
        """For each view the feature map at the point, then for each view its maximum over space."""
        xy = project(point[:, None], self.config.image_size)[:, 0] / self.config.patch_size  # (b, 3, 2)
        read = sample_map(maps.flatten(0, 1), xy.flatten(0, 1)[:, None])
        return torch.cat([read.view(-1, VIEWS, self.config.width), maps.amax(dim=(3, 4))], dim=1)

    def _heatmap_labels(self, waypoint: Float[Tensor, "b 3"]) -> Float[Tensor, "m s s"]:
        """Soft labels of all views, (b * 3, S, S)."""
        xy = project(waypoint[:, None], self.config.image_size)[:, 0]
        return label_heatmap(xy.flatten(0, 1), self.config.image_size, self.config.heatmap_sigma)


def _whole_views(views: KeptViews, noise: TrainNoise) -> tuple[Tensor, Tensor]:
    """Both stages of kept views as the network takes them; ConfigError for noise that would have to be drawn."""
    if any(part is not None for part in (noise.se3, noise.colour, noise.waypoint_noise_unit)):
        raise ConfigError("kept views are drawn already: noise of scene, colours or zoom centre cannot change them")
    first, second = (with_place_channels(images.float()) for images in (views.first, views.second))
    return first, second


def _decode(sight: _Observation) -> Float[Tensor, "b 3"]:
    """Decode the point of the stage from its heatmaps."""
    probabilities = sight.heatmaps.float().flatten(2).softmax(dim=2).view(sight.heatmaps.shape)
    return decode_point(probabilities)[0]


def _hidden(actions: States, sights: tuple[_Observation, _Observation]) -> dict[str, Tensor]:
    last = max(actions.blocks)
    screens = [s.states.blocks[max(s.states.blocks)].view(-1, VIEWS, s.maps.shape[2]) for s in sights]
    return {
        "e": actions.blocks[last],
        "norm": actions.norm,
        **{f"blocks.{i}": x for i, x in actions.blocks.items()},
        "screen": torch.stack(screens, dim=1),
    }


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Disable dropout inside the context; restore the mode of every submodule."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
