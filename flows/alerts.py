"""Alerts through a webhook. An alert that cannot be sent is logged and forgotten: it never fails what it tells of."""

import hashlib
import logging
import time
from datetime import UTC, datetime
from typing import Any

from fingerpost.masking import masked, masked_webhook
from fingerpost.settings import Settings
from fingerpost.shown import markdown_text

logger = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
# A flow that fails every minute is told of once in this time.
_SAME_AGAIN_S = 900.0
_MAX_TEXT = 3000


def send_alert(settings: Settings, kind: str, text: str, details: dict[str, Any] | None = None) -> bool:
    """Posts `{"kind", "service", "text", "time", "details"}` to `alert_url`; the same again only after 15 minutes.

    Chats show the text as Markdown or the like: names in it cannot become links or mentions.

    Args:
        kind: drift, promotion, rollback, refused model, failed flow.

    Returns:
        Whether it was taken; False too where there is no webhook.
    """
    text = masked(text)
    logger.warning("alert: %s: %s", kind, text)
    if not settings.alert_url:
        return False
    try:
        import httpx

        told = settings.home / "alerts" / hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()[:16]
        if told.exists() and time.time() - told.stat().st_mtime < _SAME_AGAIN_S:
            return False
        body = {
            "kind": kind,
            "service": settings.service,
            "text": markdown_text(text)[:_MAX_TEXT],
            "time": datetime.now(UTC).isoformat(),
            "details": {
                name: masked(each) if isinstance(each, str) else each for name, each in (details or {}).items()
            },
        }
        httpx.post(settings.alert_url, json=body, timeout=_TIMEOUT_S).raise_for_status()
        told.parent.mkdir(parents=True, exist_ok=True)
        told.touch()
        for old in told.parent.iterdir():
            if time.time() - old.stat().st_mtime > _SAME_AGAIN_S:
                old.unlink(missing_ok=True)
    except Exception as error:
        # The text of a client's error holds the URL, which is all that a webhook asks for.
        answer = getattr(error, "response", None)
        why = f"status {answer.status_code}" if answer is not None else type(error).__name__
        logger.warning("alert was not sent to %s: %s", masked_webhook(settings.alert_url), why)
        return False
    return True
