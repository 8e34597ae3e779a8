"""Envoy: its configuration, the native picker as a module, its admin interface. May import what `routing` may."""
