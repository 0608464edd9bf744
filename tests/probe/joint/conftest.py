"""A micro dataset of the tabletop: two tasks, four instructions, eight demonstrations of 32-pixel images."""

import pytest

from mnprobe.data import open_dataset
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
