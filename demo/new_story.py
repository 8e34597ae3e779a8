"""Makes room in the registry for a story from its beginning: `python -m demo.new_story`.

Versions of earlier stories stay, with all that was found of them. But the telemetry that they learned from is gone, so
none of them can be compared with what is to come: the next one that is trained begins as the first one there is.
"""

from abtest.registry import FORMER_TAG, HOLD_TAG, WATCH_TAG, Registry
from fingerpost.aliases import ALIASES
from fingerpost.environment import apply_tool_environment
from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.settings import Settings, get_settings


def make_room(settings: Settings) -> None:
    """Takes champion and challenger out of service, and forgets experiment, watch and hold."""
    registry = Registry(settings)
    with registry.lock():
        for alias in ALIASES:
            if registry.version_of(alias) is not None:
                registry.client.delete_registered_model_alias(registry.name, alias)
        for tag in {EXPERIMENT_TAG, WATCH_TAG, HOLD_TAG, FORMER_TAG} & registry.tags().keys():
            registry.set_note(tag, None)


def main() -> None:
    settings = get_settings()
    apply_tool_environment(settings)
    make_room(settings)


if __name__ == "__main__":
    main()
