"""Samplers."""

from fastreid.data.samplers.triplet_sampler import BalancedIdentitySampler, NaiveIdentitySampler

__all__ = ["BalancedIdentitySampler", "NaiveIdentitySampler"]
