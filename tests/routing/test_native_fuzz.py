"""The native picker's parsers under sanitizers, with inputs made of kept ones; `make fuzz-native` takes longer."""

import pytest

from tests.support.native_fuzz import FLAGS, PARSERS, SOURCE, fuzz, kept
from tests.support.picker_harness import build

pytestmark = pytest.mark.process
RUNS = 5_000


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("fuzz"), *FLAGS, source=SOURCE)


@pytest.mark.parametrize("parser", PARSERS)
def test_no_input_breaks_a_parser(program, tmp_path, parser):
    fuzz(program, parser, tmp_path, runs=RUNS)
    # What is kept is kept for what it reaches.
    reached = fuzz(program, parser, tmp_path, corpus=["", *kept(parser)], runs=-1)
    assert len(reached) > len(kept(parser)) / 2


def test_the_search_finds_its_way_and_an_input_that_breaks_is_told(program, tmp_path):
    assert fuzz(program, "settings", tmp_path, corpus=["7a"], runs=RUNS)
    with pytest.raises(AssertionError, match="no table, seed 1"):
        fuzz(program, "no table", tmp_path, runs=1, corpus=[])
