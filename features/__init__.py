"""From request records and host samples to windows, fingerprints and features, in Parquet.

May import `routing`, `fleet` and `fingerpost`. Training and serving both use what is defined here.
"""
