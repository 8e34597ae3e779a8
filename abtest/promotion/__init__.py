"""Which version may be champion: the policy, the decision and its record, the swap of the alias, the watch after it.

May import `fingerpost.abtest.drift` and what `abtest` may.
"""
