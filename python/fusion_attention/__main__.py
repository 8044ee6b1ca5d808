"""`python -m fusion_attention`: what this machine offers; with `run script.py`: runs a script for the NPU."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        from fusion_attention.run import main

        main(sys.argv[2:])
    else:
        from fusion_attention.machine import report

        if sys.argv[1:]:
            raise SystemExit("usage: python -m fusion_attention [run script.py args...]")
        print(report())
