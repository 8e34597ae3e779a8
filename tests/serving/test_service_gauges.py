"""Metrics by service are bounded, and forget what is gone."""

import pytest
from prometheus_client import REGISTRY

from fingerpost.serving import metrics
from fingerpost.serving.metrics import ServiceGauges


@pytest.fixture(scope="module")
def gauges():
    return ServiceGauges("test_gauges", REGISTRY)


def said(name, service):
    return REGISTRY.get_sample_value(f"test_gauges_{name}", {"service": service})


def test_services_are_told_of_until_they_are_forgotten(gauges):
    gauges.tell("shop", hosts=3, table_age_s=0.5)
    assert (said("hosts", "shop"), said("table_age_seconds", "shop")) == (3, 0.5)
    gauges.forget("shop")
    assert (said("hosts", "shop"), said("table_age_seconds", "shop")) == (0, 0)
    gauges.forget("never")
    assert said("hosts", "never") is None


def test_services_that_come_and_go_do_not_pile_up(gauges, monkeypatch, caplog):
    gauges.tell("shop", hosts=1)
    monkeypatch.setattr(metrics, "MAX_NAMES", 5)
    for number in range(20):
        gauges.tell(f"s{number}", hosts=number)
        gauges.forget(f"s{number}")
    assert said("hosts", "s3") == 0
    assert said("hosts", "s4") is None
    gauges.tell("shop", hosts=7)
    assert said("hosts", "shop") == 7
    assert [each.getMessage() for each in caplog.records] == ["5 services have gauges already: none for 's4'"]
