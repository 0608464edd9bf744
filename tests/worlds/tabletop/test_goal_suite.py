"""The goal suite does not give its instructions away: pixels read the verb a little, the color not at all."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mnprobe.worlds import make_world, suite_tasks
from mnprobe.worlds.record import video_instants

EACH = 6  # demonstrations of each of the 36 instructions
ROWS, COLUMNS = slice(64, 120), slice(14, 114)  # of the front camera's image, what models are shown


@pytest.fixture(scope="module")
def clips():
    """Pixels (n, 8 frames x 8 x 8 x 3), verbs (n,), colors (n,)."""
    world = make_world("tabletop", cameras=("front",))
    pixels, verbs, colors = [], [], []
    for verb, task in enumerate(suite_tasks("goal")):
        for seed in range(6 * EACH):
            world.reset(task, seed % 6, seed)
            for pose in world.expert():
                world.step(pose)
            frames = world.frames()
            shown = np.array([frames[index].rgb["front"][ROWS, COLUMNS] for index in video_instants(len(frames), 8)])
            squares = shown[:, :, 2:98].reshape(8, 8, 7, 8, 12, 3).mean(axis=(2, 4))
            pixels.append(squares.reshape(-1) / 255)
            verbs.append(verb)
            colors.append(seed % 6)
    world.close()
    return np.array(pixels), np.array(verbs), np.array(colors)


def right(pixels, labels):
    """How many held-out labels a linear readout finds, three folds."""
    readout = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200))
    return int((cross_val_predict(readout, pixels, labels, cv=3) == labels).sum())


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.6 beside scipy 1.17
def test_pixels_read_the_color_at_chance_and_the_verb_better(clips):
    pixels, verbs, colors = clips
    low, high = binom.interval(0.999, len(pixels), 1 / 6)
    assert low <= right(pixels, colors) <= high
    assert right(pixels, verbs) > high
