"""Switchback experiments: design, pairs, confidence, verdict. May import what `abtest` may."""
