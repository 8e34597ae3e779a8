"""Where a request goes: the cost of a host, and Envoy's configuration.

May import `fleet` and `fingerpost`.
"""
