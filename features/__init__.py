"""Turns request records and host samples into windows and training rows, in the lake; keeps the lake in order.

May import `routing`, `telemetry` and the core. Training and serving both use what is defined here.
"""
