"""Samplers: how much of its CPU and memory a host uses, seen through psutil, its cgroup, or a Prometheus endpoint.

All have `sample()`, which returns a host sample (`fingerpost.records.HOST_SAMPLE`); `make_sampler` chooses.
"""

from fingerpost.agent.sampling.base import NotYetError, Sampler, SamplingError, Subject
from fingerpost.agent.sampling.choose import SAMPLERS, SamplerOptions, finder, make_sampler

__all__ = ["SAMPLERS", "NotYetError", "Sampler", "SamplerOptions", "SamplingError", "Subject", "finder", "make_sampler"]
