"""Import of DexH2R: the dataset as it is on disk, and the zarr files for its DP and DP3 policies."""

from dexh2r_gym.replay.dexh2r.importer import import_dexh2r
from dexh2r_gym.replay.dexh2r.summary import ImportSummary
from dexh2r_gym.replay.dexh2r.zarr import import_dexh2r_zarr

__all__ = ["ImportSummary", "import_dexh2r", "import_dexh2r_zarr"]
