"""Success against failure: contrasts, rollout tables and the figure."""
