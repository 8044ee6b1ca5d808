"""The set-up commands of the interface documents, handed to pip: docs/setup.md.

python setup.py install | build | bdist_wheel [options of pip]
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMMANDS = {
    "install": ["install"],
    "bdist_wheel": ["wheel", "--no-deps", "-w", "dist"],
    "build": ["install", "--no-deps", "--upgrade", "--target", "build/lib"],  # for PYTHONPATH
}


def main(arguments: list) -> int:
    """Runs pip from the root of the repository and returns its exit code; 2 for an unknown command."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pip", *COMMANDS[arguments[0]], *arguments[1:], str(ROOT)]
    return subprocess.call(command, cwd=str(ROOT))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
