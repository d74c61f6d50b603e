"""Samplers."""

from fastreid.data.samplers.shared_batches import SharedBatches
from fastreid.data.samplers.triplet_sampler import BalancedIdentitySampler, NaiveIdentitySampler

__all__ = ["BalancedIdentitySampler", "NaiveIdentitySampler", "SharedBatches"]
