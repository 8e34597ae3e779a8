"""Decides whether a new version is better, and may serve: shadow, off-policy, experiment, drift, promotion.

May import `serving`, `training`, `features`, `routing` and the core.
"""
