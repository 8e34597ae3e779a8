"""The agent's process: `python -m fleet.agent_main`, its options as one JSON argument.

A process of its own, started anew by the command line, so that the settings library does not stay in memory.
"""

import json
import sys
from pathlib import Path

from fingerpost.logs import configure_logs
from fleet.agent import Agent, AgentOptions


def main() -> None:
    given = json.loads(sys.argv[1])
    configure_logs(given.pop("log_level"), given.pop("own_log_format"))
    given["lake"] = Path(given["lake"])
    given["access_log"] = Path(given["access_log"]) if given["access_log"] else None
    Agent(AgentOptions(**given)).run()


if __name__ == "__main__":
    main()
