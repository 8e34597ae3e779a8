"""Decides which version is champion: policy, decision and its record, swap of the alias, watch after it.

May import `fingerpost.abtest.drift` and what `abtest` may.
"""
