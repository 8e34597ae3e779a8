"""Makes room in the registry for a story from its beginning: `python -m examples.demo.new_story`.

Versions of earlier stories stay, with all that was found of them. But the telemetry that they learned from is gone, so
none of them can be compared with what is to come: the next one that is trained begins as the first one there is.
"""

from fingerpost.cli.stack.parts import registry_path
from fingerpost.environment import apply_tool_environment
from fingerpost.settings import Settings, get_settings
from fingerpost.training.registry import Registry


def told_before(settings: Settings) -> bool:
    """Whether the demo's own registry has seen a story; one elsewhere (`mlflow_url`) is not ours to make room in."""
    return not settings.mlflow_url and registry_path(settings).exists()


def make_room(settings: Settings) -> None:
    """Takes champion and challenger out of service, and forgets experiment, watch and hold."""
    registry = Registry(settings)
    with registry.lock():
        registry.forget()


def main() -> None:
    settings = get_settings()
    apply_tool_environment(settings)
    make_room(settings)


if __name__ == "__main__":
    main()
