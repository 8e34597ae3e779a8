"""The prediction engine: window reports in, predictions and routing tables out, over HTTP.

May import `training`, `features`, `routing` and the core.
"""
