"""`python -m fusion_attention`: what this machine offers; with `calibrate`: its measured roofs and what each
pass and dtype takes of it; with `run script.py`: runs a script for the NPU."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        from fusion_attention.run import main

        main(sys.argv[2:])
    else:
        from fusion_attention.machine import calibration, report

        if sys.argv[1:] not in ([], ["calibrate"]):
            raise SystemExit("usage: python -m fusion_attention [calibrate | run script.py args...]")
        print(calibration() if sys.argv[1:] else report())
