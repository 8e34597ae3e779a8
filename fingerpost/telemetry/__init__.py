"""Windows, rolling state, attribution of cost, throughput: one definition for agent, features and engine.

Part of the core; imports the core alone.
"""
