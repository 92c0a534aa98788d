"""Givers of DexYCB, from the dataset itself or from HandoverSim's cache of it, as trials."""

from dexh2r_gym.replay.dexycb.importer import import_dexycb

__all__ = ["import_dexycb"]
