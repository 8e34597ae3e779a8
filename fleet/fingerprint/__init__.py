"""What a host's telemetry says of it: rolling profiles by category, and its CPU and memory split over them.

Plain numpy on arrays, no I/O: the agent must stay small. May import `fingerpost`.
"""
