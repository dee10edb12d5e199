"""The commit layer: datasets of fixed shards whose every file is named, with its hash, in a manifest.

    <dataset>/stage.json           what this directory is: stage, fingerprint, settings, number of shards
    <dataset>/data/part-*.parquet  rows; a file that no manifest entry names does not exist for readers
    <dataset>/manifest/*.json      one entry per committed shard (`ShardEntry`)
    <dataset>/entries/*.json       some of these entries, many in one file, so that a restart need not read thousands
    <dataset>/_SUCCESS             closes the stage; holds all entries, so that readers list nothing
    set_aside/<dataset>/           what a repair took out: beside the data set, where nobody loads it
"""

from caco_ray.store.dataset import Dataset, StageInfo
from caco_ray.store.folder import Folder
from caco_ray.store.manifest import ShardEntry, Totals
from caco_ray.store.writer import DatasetWriter

__all__ = ["Dataset", "DatasetWriter", "Folder", "ShardEntry", "StageInfo", "Totals"]
