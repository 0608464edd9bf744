"""Action recognition: evaluation of video models, and its result tables."""
