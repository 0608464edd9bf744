"""Features of frozen models: HDF5 store, extractors, and the extraction job."""

from importlib import import_module

from mnprobe.features.extraction import ExtractConfig, Extracted, extract
from mnprobe.features.extractors.base import (
    EXTRACTORS,
    EpisodeFeatures,
    Extractor,
    ExtractorSpec,
    FoundWeights,
    Tokens,
)
from mnprobe.features.schema import Header
from mnprobe.features.store import FeatureFile, Layer, describe_features, open_features, verify
from mnprobe.features.writer import FeatureWriter, write_features

__all__ = [
    "EXTRACTORS",
    "EpisodeFeatures",
    "ExtractConfig",
    "Extracted",
    "Extractor",
    "ExtractorSpec",
    "FeatureFile",
    "FeatureWriter",
    "FoundWeights",
    "Header",
    "HookInputs",
    "HookTarget",
    "Layer",
    "RecognitionConfig",
    "Tokens",
    "check_forgetting",
    "describe_features",
    "extract",
    "open_features",
    "recognize",
    "verify",
    "write_features",
]


_WITH_TORCH = {
    "HookInputs": "mnprobe.features.extractors.hook",
    "HookTarget": "mnprobe.features.extractors.hook",
    "RecognitionConfig": "mnprobe.features.recognition.config",
    "check_forgetting": "mnprobe.features.recognition.evaluate",
    "recognize": "mnprobe.features.recognition.evaluate",
}


def __getattr__(name: str) -> object:
    """Import names that need torch on first access; the store does not need torch."""
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
