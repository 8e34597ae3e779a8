"""Asks what is outside: Prometheus for guardrails that a user names, a webhook that can veto, a person's approval."""

import hashlib
import hmac
import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fingerpost.abtest.promotion.policy import Policy, Stage, UserGuardrail
from fingerpost.errors import FingerpostError
from fingerpost.masking import masked, masked_webhook
from fingerpost.settings import Settings
from fingerpost.training.registry import Registry

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)
APPROVAL_TAG = "fingerpost.approval"
_TIMEOUT_S = 5.0
_MAX_BYTES = 1_000_000
_MAX_REASON = 500


def ask_during(policy: Policy, stage: Stage, told: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Why a new version that routes is to be stopped, by the user's guardrails and webhook; and who cannot be asked.

    A webhook that does not answer stops nothing: it has to agree to a promotion, not to each minute of one.

    Args:
        told: is posted to the webhook as JSON, with the stage.
    """
    broken, problems = ask_guardrails(policy)
    if policy.veto.url and stage in policy.veto.during:
        try:
            answer = _ask_webhook(policy, {**told, "stage": stage})
        except Exception as error:  # whatever it does, the look goes on
            logger.warning("%s did not answer: %s", masked_webhook(policy.veto.url), type(error).__name__)
            problems.append(f"the webhook that may veto did not answer: {type(error).__name__}")
        else:
            broken += [f"vetoed: {answer['reason'] or 'no reason given'}"] if answer["vetoed"] else []
    return broken, problems


def ask_guardrails(policy: Policy) -> tuple[list[str], list[str]]:
    """The user's guardrails that are broken now, and those that could not be asked, each as a sentence."""
    broken, problems = [], []
    for each in policy.guardrails:
        try:
            values = _values(each)
        except Exception as error:  # whatever Prometheus does, the others are asked
            logger.warning("guardrail %s cannot be asked: %s", each.name, type(error).__name__)
            problems.append(f"guardrail {each.name} cannot be asked: {type(error).__name__}")
            continue
        beyond = [value for value in values if (value > each.bound if each.bad == "above" else value < each.bound)]
        if beyond:
            worst = max(beyond) if each.bad == "above" else min(beyond)
            broken.append(f"guardrail {each.name} is {worst:g}, {each.bad} {each.bound:g}")
    return broken, problems


def _values(guardrail: UserGuardrail) -> list[float]:
    """The values that a query has now; none where it has no data."""
    import httpx

    url = f"{guardrail.url.rstrip('/')}/api/v1/query"
    document = _json(httpx.get(url, params={"query": guardrail.query}, timeout=_TIMEOUT_S))
    result = document["data"]["result"]
    samples = [result] if document["data"]["resultType"] == "scalar" else [each["value"] for each in result]
    values = [float(value) for _, value in samples]
    return [value for value in values if not math.isnan(value)]


def ask_veto(policy: Policy, told: Mapping[str, Any]) -> dict[str, Any]:
    """Asks the policy's webhook about a promotion; one that does not answer has not agreed.

    Args:
        told: is posted as JSON: `model_name`, `champion`, `challenger` and the reason.

    Returns:
        `vetoed` and `reason`, for the evidence.
    """
    try:
        return _ask_webhook(policy, told)
    except Exception as error:
        logger.warning("%s did not answer: %s", masked_webhook(policy.veto.url), type(error).__name__)
        return {"vetoed": True, "reason": f"the webhook that may veto did not answer: {type(error).__name__}"}


def _ask_webhook(policy: Policy, told: Mapping[str, Any]) -> dict[str, Any]:
    import httpx

    answer = _json(httpx.post(policy.veto.url, json=dict(told), timeout=_TIMEOUT_S))
    if not isinstance(answer.get("veto"), bool):
        raise ValueError("it has no field veto that is true or false")
    return {"vetoed": answer["veto"], "reason": masked(str(answer.get("reason") or ""))[:_MAX_REASON]}


def _json(answer: "httpx.Response") -> dict[str, Any]:
    answer.raise_for_status()
    if len(answer.content) > _MAX_BYTES:
        raise ValueError("the answer is too long")
    found = answer.json()
    if not isinstance(found, dict):
        raise TypeError("the answer is not an object")
    return found


def approve(settings: Settings, version: str, who: str, why: str) -> dict[str, str]:
    """Notes a person's approval on a version, signed with the approvers' key.

    Raises:
        FingerpostError: there is no such version, no reason, or no key.
    """
    registry = Registry(settings)
    if not settings.approval_token:
        raise FingerpostError("FINGERPOST_APPROVAL_TOKEN is not set: who may approve has it, and so do the flows")
    if not why.strip():
        raise FingerpostError("an approval needs a reason: --reason TEXT")
    if registry.version(version) is None:
        raise FingerpostError(f"{registry.name} has no version {version!r}")
    approval = {"who": who, "why": why[:_MAX_REASON], "at": datetime.now(UTC).isoformat()}
    signed = {**approval, "signature": _signature(settings, registry.name, version, approval)}
    registry.tag_version(version, APPROVAL_TAG, json.dumps(signed))
    return approval


def approval_of(settings: Settings, registry: Registry, version: str) -> dict[str, Any] | None:
    """A version's approval, for the evidence: `who`, `why`, `at`, and whether its signature is `valid`; None: none."""
    entry: Any = registry.version(version)
    try:
        found: Any = json.loads(entry.tags[APPROVAL_TAG])
        approval = {name: str(found[name]) for name in ("who", "why", "at")}
        expected = _signature(settings, registry.name, version, approval)
        valid = bool(settings.approval_token) and hmac.compare_digest(expected, str(found["signature"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return {**approval, "valid": valid}


def _signature(settings: Settings, model: str, version: str, approval: Mapping[str, str]) -> str:
    text = json.dumps([model, version, approval["who"], approval["why"], approval["at"]])
    return hmac.new(settings.approval_token.encode(), text.encode(), hashlib.sha256).hexdigest()
