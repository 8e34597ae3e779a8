"""What the page costs the engine is counted, whoever looks."""

import pytest

from fingerpost.serving.engine import Engine
from fingerpost.settings import Settings

pytestmark = pytest.mark.process


def test_the_cpu_time_of_the_numbers_is_counted(tmp_path):
    engine = Engine(Settings(home=tmp_path, service="shop"))
    counted = engine.metrics.page_seconds
    before = counted._value.get()
    page = engine.page.of("shop")
    page.numbers()
    made = counted._value.get()
    assert made > before
    # To write them as JSON costs too, but only once for all who look.
    page.rendered()
    written = counted._value.get()
    assert written > made
    page.rendered()
    assert counted._value.get() == written
    engine.store.close()
