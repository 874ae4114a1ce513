"""Samplers: which candidates of an image train a head."""

from .base_sampler import BaseSampler
from .combined_sampler import CombinedSampler
from .instance_balanced_pos_sampler import InstanceBalancedPosSampler
from .iou_balanced_neg_sampler import IoUBalancedNegSampler
from .mask_pseudo_sampler import MaskPseudoSampler
from .mask_sampling_result import MaskSamplingResult
from .ohem_sampler import OHEMSampler
from .pseudo_sampler import PseudoSampler
from .random_sampler import RandomSampler
from .samples import Samples
from .sampling_result import SamplingResult
from .score_hlr_sampler import ScoreHLRSampler

__all__ = ["BaseSampler", "CombinedSampler", "InstanceBalancedPosSampler",
           "IoUBalancedNegSampler", "MaskPseudoSampler", "MaskSamplingResult", "OHEMSampler",
           "PseudoSampler", "RandomSampler", "Samples", "SamplingResult", "ScoreHLRSampler"]
