"""Tells what predictive routing is worth for a fleet, from records or logs of it that are only read.

May import what the simulator may; nothing imports it but the command line.
"""
