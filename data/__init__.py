"""The sample lake and logs of `data/sample`, and what makes them and the schema notes.

Not part of the program: it imports `fingerpost`, and nothing imports it.
"""
