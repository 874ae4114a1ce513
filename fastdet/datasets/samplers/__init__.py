"""Which images a process loads, and in which order."""

from .class_aware_sampler import ClassAwareSampler
from .distributed_sampler import DistributedSampler
from .group_sampler import DistributedGroupSampler, GroupSampler
from .infinite_sampler import InfiniteBatchSampler, InfiniteGroupBatchSampler

__all__ = ["ClassAwareSampler", "DistributedGroupSampler", "DistributedSampler", "GroupSampler",
           "InfiniteBatchSampler", "InfiniteGroupBatchSampler"]
