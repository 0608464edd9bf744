"""A picture of the goal suite: a row of eight cropped front images for each verb, and one color for all.

python benchmarks/goal_suite.py docs/images/goal-suite.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mnprobe.worlds import make_world, suite_tasks
from mnprobe.worlds.record import video_instants


def main(path: Path) -> None:
    world = make_world("tabletop", cameras=("front",))
    rows = []
    for task in suite_tasks("goal"):
        world.reset(task, 1, 5)
        for pose in world.expert():
            world.step(pose)
        frames = world.frames()
        shown = [frames[index].rgb["front"][64:120, 14:114] for index in video_instants(len(frames), 8)]
        rows.append(np.concatenate(shown, axis=1))
    world.close()
    picture = Image.fromarray(np.concatenate(rows))
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
