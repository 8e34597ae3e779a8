"""Off-policy estimates: what another choice of hosts would have cost. May import what `abtest` may."""
