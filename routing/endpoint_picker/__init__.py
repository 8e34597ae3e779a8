"""The second door: an endpoint picker for gateways, by the protocol of the Gateway API's inference extension.

Messages, requests, endpoints, the choice and a request's exchange know nothing of gRPC; `server` speaks it. May import
what `routing` may.
"""
