"""Action recognition: which of many instructions a video model takes an episode for, and how often it is right."""

__all__ = ["ALL_EPISODES", "ALL_TASKS", "COLUMNS", "PREDICTION_COLUMNS"]

ALL_TASKS = "all tasks"
"""In the column `task`: the mean over tasks, each counting alike (the "Avg." of the paper's Table 1)."""

ALL_EPISODES = "all episodes"
"""In the column `task`: the mean over episodes."""

COLUMNS = (
    *("model", "training", "step", "trained", "zero_shot", "source", "partition", "task"),
    *("n", "correct", "correct5", "top1", "top5", "ci_low", "ci_high", "top5_low", "top5_high"),
    *("chance", "chance5", "candidates", "candidates_sha256", "checkpoint_sha256", "data_fingerprint"),
    *("config_hash", "created"),
)
"""The tidy table results/recognition.csv (the paper's Table 1): one row per model, step, source, partition and task.

model, step: as in checkpoints/<model>/step_<step>; `training` what the checkpoint says it was trained in ("baseline",
"joint", ...; empty where it says nothing); `trained` False for random weights; `zero_shot` True for weights that were
trained, but not here: a published file, or step 0 of a training that began with one. source: "demos", "rollouts", ...;
partition: "test", "all", or those asked for, joined with "+". task: the task, or ALL_TASKS (mean over tasks), or
ALL_EPISODES (mean over episodes); each model and step has both. n: episodes; correct, correct5: those whose own
instruction came first, or among the first five; top1, top5: shares in [0, 1] (of ALL_TASKS: means of the tasks'
shares); ci_low, ci_high: 95 % interval of top1 (Wilson; for ALL_TASKS recovered from the tasks' own), top5_low,
top5_high of top5; chance, chance5: what guessing gives, 1 and 5 of `candidates`. The rest tells apart what was measured
on what: rows are kept when run again where `config_hash` is equal.
"""

PREDICTION_COLUMNS = (
    *("model", "training", "step", "source", "partition", "id", "task", "instruction", "prediction"),
    *("correct", "rank", "margin", "config_hash"),
)
"""The tidy table results/predictions.csv: one row per model, step, source and episode.

`partition` is that of the episode; `correct` (1 or 0) is the understanding side's success at this checkpoint; `rank`
the place of the episode's own instruction, 1 the best; `margin` its cosine less that of the best other instruction.
"""
