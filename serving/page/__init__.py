"""The engine's page: what a person sees of fleet, traffic, predictions, model, worth and pipeline; read-only.

Recorded as tables are made, put together once a second for all viewers, drawn in the browser.
"""
