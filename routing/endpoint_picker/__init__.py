"""The second door: an endpoint picker for gateways, by the protocol of the Gateway API's inference extension.

Messages, requests, endpoints and the choice are free of gRPC; `service` and `server` speak it. May import what `routing` may.
"""
