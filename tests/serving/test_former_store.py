"""The engine's store after an upgrade: one of the release before is opened, one of an unknown version is refused."""

import sqlite3

import pytest
from sqlalchemy import select

from fingerpost.errors import FingerpostError
from fingerpost.serving.store_database import Database, metadata

pytestmark = pytest.mark.process

# As release 0.1.0 made it.
RELEASE_0_1 = """
CREATE TABLE fingerprints (
    service VARCHAR(64) NOT NULL, host VARCHAR(64) NOT NULL, boot_id VARCHAR(64) NOT NULL, sequence BIGINT NOT NULL,
    time_us BIGINT NOT NULL, received_us BIGINT NOT NULL, first_seen_us BIGINT NOT NULL, change BIGINT NOT NULL,
    packed BLOB NOT NULL, PRIMARY KEY (service, host)
);
CREATE INDEX fingerprints_by_change ON fingerprints (service, change);
CREATE TABLE fingerprint_changes (
    name VARCHAR(64) NOT NULL, epoch VARCHAR(64) NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name)
);
INSERT INTO fingerprints VALUES ('shop', 'web-1', 'boot', 7, 1, 1, 1, 1, x'00');
INSERT INTO fingerprint_changes VALUES ('fingerprints', 'epoch', 1);
"""


def store(path, statements):
    with sqlite3.connect(path) as connection:
        connection.executescript(statements)
    connection.close()
    return Database(f"sqlite:///{path}")


def test_the_store_of_the_release_before_is_opened(tmp_path):
    database = store(tmp_path / "fingerprints.db", RELEASE_0_1)
    for _ in range(2):
        with database.opened().connect() as connection:
            for table in metadata.sorted_tables:
                connection.execute(select(table)).fetchall()
        database.close()


def test_a_store_of_an_unknown_version_is_refused_and_left_as_it_is(tmp_path):
    """Whichever table it is that has the name and not the columns."""
    path = tmp_path / "fingerprints.db"
    name = metadata.sorted_tables[-1].name
    database = store(path, f"CREATE TABLE {name} (service TEXT, later TEXT); INSERT INTO {name} VALUES ('shop', 'x');")  # noqa: S608
    with pytest.raises(FingerpostError, match=f"made by another version: its table {name} has no .*Stop the engines"):
        database.opened()
    with sqlite3.connect(path) as connection:
        assert connection.execute(f"SELECT later FROM {name}").fetchall() == [("x",)]  # noqa: S608
    connection.close()
