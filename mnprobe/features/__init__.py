"""Features of frozen models: the HDF5 store, extractors, and the job that fills one from the other."""

from mnprobe.features.extract import Extracted, extract
from mnprobe.features.extractor import EXTRACTORS, EpisodeFeatures, Extractor, ExtractorSpec, Tokens
from mnprobe.features.header import Header
from mnprobe.features.store import FeatureFile, Layer, open_features, verify
from mnprobe.features.summary import describe_features
from mnprobe.features.writer import FeatureWriter, write_features

__all__ = [
    "EXTRACTORS",
    "EpisodeFeatures",
    "Extracted",
    "Extractor",
    "ExtractorSpec",
    "FeatureFile",
    "FeatureWriter",
    "Header",
    "HookInputs",
    "HookTarget",
    "Layer",
    "Tokens",
    "describe_features",
    "extract",
    "open_features",
    "verify",
    "write_features",
]


def __getattr__(name: str) -> object:
    """HookInputs and HookTarget need torch, which the store does not: they are imported when asked for."""
    if name in ("HookInputs", "HookTarget"):
        from mnprobe.features import hook

        return getattr(hook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
