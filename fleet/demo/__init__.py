"""The local demo fleet: unequal hosts that do real work, and clients that load them."""
