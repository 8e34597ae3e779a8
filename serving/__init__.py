"""The prediction engine: fingerprints in, predictions and routing tables out, over HTTP.

May import `training`, `features`, `routing` and the core.
"""
