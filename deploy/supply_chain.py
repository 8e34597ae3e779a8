"""What the program is made of, and what is known against it: `python deploy/supply_chain.py sbom FILE`, or `audit`.

Both take the pinned set, constraints.txt: all roles, and the tools of development.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
_LONGEST_S = 300
# How pip-audit ends where its source of advisories is out of reach; some of it are errors that it does not catch.
_NO_SOURCE = (
    "Could not connect",
    "requests.exceptions",
    "ServiceError",
    "HTTPError",
    "Timeout",
    "timed out",
    "not redirecting",
)
_UNREACHABLE = "the source of advisories cannot be reached, so nothing was checked"


def bill(constraints: Path, version: str) -> dict[str, Any]:
    """The bill of materials of a pinned set: CycloneDX 1.6 as JSON, the same for the same set.

    Args:
        version: of the program.

    Raises:
        subprocess.CalledProcessError: the set cannot be read.
    """
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(constraints.absolute())]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--sv", "1.6", "--of", "JSON", "--output-reproducible"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    found["metadata"]["component"]["version"] = version
    for each in found["components"]:
        # It names an index, though packages may have come from another.
        each.pop("externalReferences", None)
    return found


def verdict(told: str, errors: str) -> tuple[int, list[str]]:
    """What pip-audit found, in lines for people, and the exit code.

    Args:
        told: its output as JSON; anything else: it failed.
        errors: what it said besides.

    Returns:
        0: nothing is known, or nothing could be checked, which the lines say; 1: weaknesses; 2: it cannot be run.
    """
    try:
        packages = json.loads(told)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = errors.strip().splitlines()[-1:] or ["it said nothing"]
        if any(each in errors for each in _NO_SOURCE):
            return 0, [f"audit: {_UNREACHABLE} ({last[0][:200]})"]
        return 2, [f"audit: pip-audit failed: {last[0][:500]}"]
    checked = [each for each in packages if "skip_reason" not in each]
    if not checked:
        return 0, [f"audit: {_UNREACHABLE}: it knows none of {len(packages)} packages"]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for each in checked
        for found in each["vulns"]
    ]
    counted = f"{len(checked)} of {len(packages)} packages were checked"
    if lines:
        return 1, [*lines, f"audit: {counted}, {len(lines)} weaknesses are known"]
    return 0, [f"audit: {counted}, no weakness is known"]


def audit(constraints: Path = CONSTRAINTS) -> tuple[int, list[str]]:
    """Asks for what is known against a pinned set; see `verdict`."""
    # Nothing is installed, and nothing resolved: the set is whole.
    command = [sys.executable, "-m", "pip_audit", "-r", str(constraints), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    with tempfile.TemporaryDirectory() as cache:
        try:
            done = subprocess.run(
                [*command, "--cache-dir", cache], capture_output=True, text=True, timeout=_LONGEST_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            return verdict("", str(error))
    return verdict(done.stdout, done.stderr)


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code."""
    if arguments[:1] == ["sbom"] and len(arguments) == 2:
        from fingerpost import __version__

        path = Path(arguments[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        found = bill(CONSTRAINTS, __version__)
        made.write_text(f"{json.dumps(found, indent=1, sort_keys=True)}\n")
        made.replace(path)
        print(f"{path}: {len(found['components'])} packages")
        return 0
    if arguments == ["audit"]:
        code, lines = audit()
        print("\n".join(lines), file=sys.stderr if code else sys.stdout)
        return code
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
