"""Features of frozen models: the HDF5 store, extractors, and the job that fills one from the other."""

from mnprobe.features.header import Header
from mnprobe.features.store import FeatureFile, Layer, open_features, verify
from mnprobe.features.writer import FeatureWriter, write_features

__all__ = ["FeatureFile", "FeatureWriter", "Header", "Layer", "open_features", "verify", "write_features"]
