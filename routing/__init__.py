"""Chooses where a request goes: cost, guard, routing table, Envoy's configuration, the pickers.

May import the core alone.
"""
