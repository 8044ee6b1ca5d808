"""Every test of the project, one step after the other; the last line is `N passed, N failed[, N skipped]`.

--full adds the acceptance counts, the sanitizers and arm64. Runs in .venv; scripts/test makes it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
OUT = ROOT / "build" / "results"
MOST_LINES = 500
JOBS = str(os.cpu_count() or 1)


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    minutes: list[tuple[str, float]] = field(default_factory=list)

    def check(self, name: str, good: bool, output: str = "") -> None:
        self.passed += good
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {name}")
        if not good:
            print(output[-6000:])

    def junit(self, file: Path, name: str) -> None:
        """Adds the cases of a JUnit file."""
        if not file.exists():
            self.check(f"{name}: no results were written", False)
            return
        for case in ET.parse(file).getroot().iter("testcase"):
            skip, fail = case.find("skipped"), case.find("failure")
            fail = fail if fail is not None else case.find("error")
            if fail is not None:
                self.failed += 1
                print(f"FAILED {name}: {case.get('classname')}.{case.get('name')}")
            elif skip is not None or case.get("status") == "notrun":
                reason = skip.get("message", "") if skip is not None else ""
                self.skipped.append(f"{case.get('name')}: {reason}")
            else:
                self.passed += 1


def run(command: list, env: dict | None = None, cwd: Path = ROOT) -> tuple[bool, str]:
    settings = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | (env or {})
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode == 0, done.stdout


def apt(package: str) -> bool:
    """Installs a Debian package, as root only."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    if run(["apt-get", "install", "-y", "-q", package], quiet)[0]:
        return True
    return run(["apt-get", "update", "-q"])[0] and run(["apt-get", "install", "-y", "-q", package], quiet)[0]


def googletest() -> str:
    """How CMake finds GoogleTest: the system's, or Debian's package unpacked into build/ (needs no root)."""
    if Path("/usr/include/gtest/gtest.h").exists() or apt("libgtest-dev"):
        return "-DGTest_ROOT=/usr"
    folder = ROOT / "build" / "googletest"
    if not (folder / "usr/include/gtest/gtest.h").exists():
        folder.mkdir(parents=True, exist_ok=True)
        ok, said = run(["apt-get", "download", "libgtest-dev", "googletest"], cwd=folder)
        if not ok:
            raise SystemExit(
                f"GoogleTest is not installed and could not be fetched: install libgtest-dev\n{said}"
            )
        for package in folder.glob("*.deb"):
            run(["dpkg", "-x", package, folder])
    return f"-DGTest_ROOT={folder}/usr"


def sources(*patterns: str) -> list[Path]:
    ok, listed = run(["git", "ls-files", "-co", "--exclude-standard", *patterns])
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def lint(tally: Tally) -> None:
    cpp = sources("*.cc", "*.h", "*.def")
    tally.check("clang-format", *run([BIN / "clang-format", "--dry-run", "-Werror", *cpp]))
    tally.check("ruff check", *run([BIN / "ruff", "check", "."]))
    tally.check("ruff format", *run([BIN / "ruff", "format", "--check", "."]))
    tally.check("mypy", *run([BIN / "mypy", "python/fusion_attention"]))
    code = [*cpp, *sources("*.py", "*.txt", "scripts/*")]
    long = [
        f"{p.relative_to(ROOT)}: {n}" for p in code if (n := len(p.read_text().splitlines())) > MOST_LINES
    ]
    tally.check(f"no source file over {MOST_LINES} lines", not long, "\n".join(long))
    tally.check("layers", *run([sys.executable, ROOT / "scripts/layers"]))


def configure(preset: str, *options: str) -> tuple[bool, str]:
    return run(["cmake", "--preset", preset, googletest(), *options])


def cpp(
    tally: Tally, preset: str, env: dict | None = None, options: tuple[str, ...] = (), exclude: str = ""
) -> bool:
    """Builds a preset and runs its C++ tests, one result per GoogleTest case."""
    for command in (configure(preset, *options), run(["cmake", "--build", f"build/{preset}", "-j", JOBS])):
        if not command[0]:
            tally.check(f"build {preset}", *command)
            return False
    tally.check(f"build {preset}", True)
    for binary in sorted((ROOT / "build" / preset).glob("*_test_cc")):
        if exclude and exclude in binary.name:
            continue
        file = OUT / f"{preset}_{binary.name}.xml"
        file.unlink(missing_ok=True)
        emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"] if preset == "arm64" else []
        ok, said = run([*emulator, binary, f"--gtest_output=xml:{file}"], env)
        print("".join(f"  {line}\n" for line in said.splitlines() if line.startswith("note:")), end="")
        if not ok:
            print(said[-6000:])
        if not ok and not file.exists():
            tally.check(f"{preset} {binary.name}", False, said)
        else:
            tally.junit(file, f"{preset} {binary.name}")
    return True


def consumer(tally: Tally) -> None:
    """A program that knows only the installed package."""
    prefix = ROOT / "build" / "installed"
    steps = (
        ["cmake", "--install", "build/release", "--prefix", prefix],
        [
            "cmake",
            "-S",
            "tests/install",
            "-B",
            "build/consumer",
            "-G",
            "Ninja",
            f"-DCMAKE_PREFIX_PATH={prefix}",
        ],
        ["cmake", "--build", "build/consumer"],
        [ROOT / "build/consumer/consumer"],
    )
    for step in steps:
        ok, said = run(step)
        if not ok:
            tally.check(f"consumer of the installed package: {step[0]}", ok, said)
            return
    tally.check("consumer of the installed package", True)


def python(tally: Tally, env: dict) -> None:
    file = OUT / "pytest.xml"
    file.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        JOBS,
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
        f"--junitxml={file}",
    ]
    ok, said = run([*command, "tests/python"], env)
    print("\n".join(line for line in said.splitlines() if line.startswith(("family calls", "worst"))))
    if not ok:
        print(said[-10000:])
    tally.junit(file, "pytest")


def wheel(tally: Tally) -> None:
    folder = ROOT / "build" / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    ok, said = run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    )
    tally.check("wheel", ok, said)
    for file in folder.glob("*.whl"):
        size = file.stat().st_size / 2**20
        tally.check(f"wheel of {size:.1f} MiB, at most 15", size < 15)


def full(tally: Tally, env: dict) -> None:
    compiler = shutil.which("clang++-19") or (
        apt("clang-19") and apt("libclang-rt-19-dev") and shutil.which("clang++-19")
    )
    few = env | {"FUSION_ATTENTION_RANDOM_PROBLEMS": "60"}
    for preset in ("asan", "tsan"):
        if compiler:
            cpp(tally, preset, few, (f"-DCMAKE_CXX_COMPILER={compiler}",))
        else:
            tally.skipped.append(f"{preset}: clang-19 is not installed")
    if (shutil.which("aarch64-linux-gnu-g++") or apt("g++-aarch64-linux-gnu")) and (
        shutil.which("qemu-aarch64") or apt("qemu-user")
    ):
        cpp(tally, "arm64", env | {"FUSION_ATTENTION_RANDOM_PROBLEMS": "20"})
    else:
        tally.skipped.append("arm64: no cross compiler or no qemu-user")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    counts = (
        {"FUSION_ATTENTION_RANDOM_PROBLEMS": "3000", "FUSION_ATTENTION_FAMILY_CALLS": "1000"}
        if options.full
        else {}
    )
    tally = Tally()

    def step(name: str, work, *arguments) -> None:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        work(*arguments)
        tally.minutes.append((name, (time.monotonic() - start) / 60))

    step("lint", lint, tally)
    step("C++", cpp, tally, "release", counts)
    tally.check("isa_symbols", *run([sys.executable, ROOT / "scripts/isa_symbols", "build/release"]))
    step("install", consumer, tally)
    step("Python", python, tally, counts)
    step("wheel", wheel, tally)
    if options.full:
        step("sanitizers and arm64", full, tally, counts)

    print("minutes: " + ", ".join(f"{name} {minutes:.1f}" for name, minutes in tally.minutes))
    for reason in tally.skipped:
        print("skipped", reason)
    tail = f", {len(tally.skipped)} skipped" if tally.skipped else ""
    print(f"{tally.passed} passed, {tally.failed} failed{tail}")
    return bool(tally.failed)


if __name__ == "__main__":
    sys.exit(main())
