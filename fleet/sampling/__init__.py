"""Samplers: how much of its CPU and memory a host uses, seen through psutil, its cgroup, or a Prometheus endpoint.

All have `sample()`, which returns a host sample (`fingerpost.records.HOST_SAMPLE`); `make_sampler` chooses.
"""

from fleet.sampling.base import Sampler, SamplingError, Subject
from fleet.sampling.choose import SAMPLERS, SamplerOptions, make_sampler

__all__ = ["SAMPLERS", "Sampler", "SamplerOptions", "SamplingError", "Subject", "make_sampler"]
