"""The agent beside a host or a proxy: sources of records, samplers, fingerprints, batches, sender.

May import `middleware`, `routing` and the core; only `cli` imports it. Light: no pandas, no pyarrow.
"""
