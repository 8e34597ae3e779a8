"""What runs at the hosts: agent, log readers, resource samplers, batches for the lake; and the local demo fleet.

May import `fingerpost` only, and nothing heavy: the agent lives beside the service it measures.
"""
