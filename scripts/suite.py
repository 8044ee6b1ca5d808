"""Every test of the project, one step after the other; the last line is `N passed, N failed[, N skipped]`.

--full adds the acceptance counts, the sanitizers, arm64, older CPUs, MindSpore, `pip install .`.
Runs in .venv, which scripts/test makes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
RESULTS = BUILD / "results"
MOST_LINES = 500
MOST_MIB = 15
HOUR = 3600
JOBS = str(len(os.sched_getaffinity(0)))

Command = list[str]
Settings = dict[str, str]
NATIVE: Command = []


@dataclass
class Tally:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def check(self, name: str, good: bool, output: str = "") -> bool:
        if good:
            self.passed += 1
            print(f"ok      {name}")
        else:
            self.failed.append(name)
            print(f"FAILED  {name}\n{output[-8000:]}")
        return good

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append(f"{name}: {reason}")

    def cases(self, name: str, file: Path, finished: bool, output: str) -> None:
        """Adds the cases of a JUnit file, and a failure when the program failed though no case did."""
        before = len(self.failed), self.passed
        cases = list(ET.parse(file).getroot().iter("testcase")) if file.exists() else []
        for case in cases:
            label = f"{name}: {case.get('classname')}.{case.get('name')}"
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed.append(label)
            elif skip is not None:
                self.skip(label, " ".join(skip.get("message", "").split()))
            elif case.get("status") == "notrun":
                self.skip(label, "disabled in its source")
            else:
                self.passed += 1
        failures = len(self.failed) - before[0]
        if not cases:
            self.failed.append(f"{name}: no results were written")
        elif not finished and not failures:
            self.failed.append(f"{name}: every case passed, but the program failed")
        verdict = "FAILED" if len(self.failed) > before[0] else "ok    "
        print(f"{verdict}  {name}: {self.passed - before[1]} passed")
        notes = [
            line
            for line in output.splitlines()
            if line.startswith(("note:", "family calls", "malformed calls", "worst"))
        ]
        print("".join(f"        {line}\n" for line in notes), end="")
        if not finished:
            print(output[-8000:])

    def line(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.passed} passed, {len(self.failed)} failed{skipped}"


def run(*command: str | Path, settings: Settings | None = None, limit: int = 2 * HOUR) -> tuple[bool, str]:
    """Whether it succeeded, and what it said."""
    environment = os.environ | {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"} | (settings or {})
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=limit, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        return False, f"{said}\nstopped after {limit} s: {' '.join(map(str, command))}"
    return done.returncode == 0, done.stdout


def found(program: str, *packages: str) -> bool:
    """Whether a program of --full is here; root installs its Debian packages when it is not."""
    if not shutil.which(program) and os.geteuid() == 0 and shutil.which("apt-get"):
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", *packages, settings={"DEBIAN_FRONTEND": "noninteractive"})
    return shutil.which(program) is not None


def googletest() -> str:
    """CMake's argument for GoogleTest's sources: the system's, or Debian's unpacked into build/."""
    system, own = Path("/usr/src/googletest"), BUILD / "debian/usr/src/googletest"
    if not system.exists() and not own.exists():
        ok, said = run("scripts/debian", "googletest")
        if not ok:
            raise SystemExit(f"GoogleTest: {said}")
    return f"-DFUSION_ATTENTION_GOOGLETEST={system if system.exists() else own}"


def tracked(*patterns: str) -> list[str]:
    """The files of the project that match, those about to be added included."""
    return [line for line in run("git", "ls-files", "-co", "--exclude-standard", *patterns)[1].splitlines()
            if (ROOT / line).is_file()]  # fmt: skip


def lint(tally: Tally) -> None:
    sources = tracked("*.cc", "*.h", "*.def")
    tally.check("clang-format", *run("clang-format", "--dry-run", "-Werror", *sources))
    tally.check("ruff check", *run("ruff", "check", "."))
    tally.check("ruff format", *run("ruff", "format", "--check", "."))
    tally.check("mypy", *run("mypy", "python/fusion_attention", "bench"))
    tally.check("mypy scripts", *run("mypy", "--scripts-are-modules", "scripts/suite.py", "scripts/layers",
                                     "scripts/isa_symbols"))  # fmt: skip
    lines = {name: len((ROOT / name).read_text().splitlines())
             for name in (*sources, *tracked("*.py", "*.pyi", "CMakeLists.txt", "scripts/*"))}  # fmt: skip
    long = [f"{name}: {count}" for name, count in lines.items() if count > MOST_LINES]
    tally.check(f"no source file over {MOST_LINES} lines", not long, "\n".join(long))
    tally.check("layers", *run("scripts/layers"))


def build(tally: Tally, preset: str, *options: str) -> bool:
    ok, said = run("cmake", "--preset", preset, googletest(), *options)
    print("".join(f"{line}\n" for line in said.splitlines() if "left out" in line), end="")
    if ok:
        ok, said = run("cmake", "--build", f"build/{preset}", "-j", JOBS)
    if tally.check(f"build {preset}", ok, said):
        warnings = [line for line in said.splitlines() if "warning:" in line]
        tally.check(f"build {preset}: no warnings", not warnings, "\n".join(warnings))
    return ok


def cpp(tally: Tally, preset: str, settings: Settings, emulator: Command = NATIVE, only: str = "") -> None:
    """The C++ tests of a built preset, one result per GoogleTest case."""
    for source in sorted((ROOT / "tests").rglob("*_test.cc")):
        name = str(source.relative_to(ROOT / "tests")).replace("/", "_").replace(".", "_")
        if only in name:
            label = " ".join(emulator or [preset])
            file = RESULTS / f"{label.replace('/', '_')} {name}.xml"
            file.unlink(missing_ok=True)
            arguments = (f"build/{preset}/{name}", f"--gtest_output=xml:{file}")
            tally.cases(f"{label} {name}", file, *run(*emulator, *arguments, settings=settings))


def release(tally: Tally, settings: Settings) -> None:
    if build(tally, "release"):
        cpp(tally, "release", settings)
        if os.uname().machine == "x86_64":
            tally.check("isa_symbols", *run("scripts/isa_symbols", "build/release"))
        else:
            tally.skip("isa_symbols", "every instruction set is that of the baseline here")
        consumer(tally)


def consumer(tally: Tally) -> None:
    """A program that knows only the installed package."""
    prefix, folder = BUILD / "installed", BUILD / "consumer"
    shutil.rmtree(prefix, ignore_errors=True)
    steps: tuple[Command, ...] = (
        ["cmake", "--install", "build/release", "--prefix", str(prefix)],
        ["cmake", "-G", "Ninja", "-S", "tests/install", "-B", str(folder), f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["cmake", "--build", str(folder)],
        [str(folder / "consumer")],
    )
    for step in steps:
        ok, said = run(*step)
        if not ok:
            break
    tally.check("consumer of the installed package", ok, said)


def python(tally: Tally, settings: Settings) -> None:
    file = RESULTS / "pytest.xml"
    file.unlink(missing_ok=True)
    options = ["-q", "-n", JOBS, "-W", "ignore", "-p", "no:cacheprovider", f"--junitxml={file}"]
    tally.cases("pytest", file, *run("pytest", *options, "tests/python", "tests/scripts", settings=settings))


def wheel(tally: Tally) -> None:
    """The wheel that scripts/setup built and installed."""
    for file in (BUILD / "dist").glob("*.whl"):
        size = file.stat().st_size / 2**20
        tally.check(f"wheel of {size:.1f} MiB, at most {MOST_MIB}", size < MOST_MIB)


def sanitizers(tally: Tally, settings: Settings) -> None:
    if not found("clang++-19", "clang-19", "libclang-rt-19-dev"):
        tally.skip("sanitizers", "clang-19 is not installed")
        return
    for preset in ("asan", "tsan"):
        if build(tally, preset, "-DCMAKE_CXX_COMPILER=clang++-19"):
            cpp(tally, preset, settings | {"FUSION_ATTENTION_RANDOM_PROBLEMS": "60"})


def arm64(tally: Tally, settings: Settings) -> None:
    tools = found("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"), found("qemu-aarch64", "qemu-user")
    if not all(tools):
        tally.skip("arm64", "no cross compiler or no qemu-user")
    elif build(tally, "arm64"):
        # qemu-user cannot fork a process that has threads, and shows the /proc/cpuinfo of its host.
        few = settings | {"FUSION_ATTENTION_RANDOM_PROBLEMS": "20", "FUSION_ATTENTION_BITS_PROBLEMS": "8",
                          "FUSION_ATTENTION_HOSTILE_CALLS": "8",
                          "GTEST_FILTER": "-*Fork*:*ExitIsClean:Cpu.A*:*MemoryErrorAndWrites*"}  # fmt: skip
        cpp(tally, "arm64", few, ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"])


def older_cpus(tally: Tally, settings: Settings) -> None:
    """No instruction above what the CPU announces: the wheel computes, the kernels stay in bound."""
    if os.uname().machine != "x86_64" or not found("qemu-x86_64", "qemu-user"):
        tally.skip("older CPUs", "not an x86-64 machine, or no qemu-user")
        return
    call = (
        "import fusion_attention as fa, numpy as np\n"
        "for x in (np.ones((1, 64, 2, 40), np.float32), np.ones((1, 64, 2, 40), np.float16)):\n"
        "    out, top, total = fa.npu_fusion_attention(x, x, x, 2, 'BSND')[:3]\n"
        "    assert np.allclose(out.astype(np.float32), 1, atol=1e-6)\n"
        "    given = dict(softmax_max=top, softmax_sum=total, attention_in=out)\n"
        "    dv = fa.npu_fusion_attention_grad(x, x, x, x, 2, 'BSND', **given)[2]\n"
        "    assert np.allclose(dv.astype(np.float32), 1, atol=2e-3)\n"
    )
    few = settings | {"FUSION_ATTENTION_RANDOM_PROBLEMS": "10", "FUSION_ATTENTION_READABLE_GUARDS": "1"}
    # qemu 7.2 flushes denormal halves, as the instruction does not: no fp16 above scalar.
    scalar, wide = ({"GTEST_FILTER": rows} for rows in ("*scalar*", "*avx2_fp32*:*avx2_bf16*"))
    for cpu in ("Nehalem", "Haswell"):
        emulator = ["qemu-x86_64", "-cpu", cpu]
        tally.check(f"wheel on {cpu}", *run(*emulator, sys.executable, "-c", call))
        cpp(tally, "release", few | scalar, emulator, only="kernels_random_problems")
        if cpu == "Haswell":
            cpp(tally, "release", few | wide, emulator, only="kernels_forward")


def mindspore(tally: Tally, settings: Settings) -> None:
    """The cell on MindSpore's own tensors, in an environment of its own: MindSpore needs numpy 1.26."""
    folder, file = BUILD / "mindspore/venv", RESULTS / "mindspore.xml"
    pip: Command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "-q"]
    steps: tuple[Command, ...] = (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*pip, "-r", "tests/mindspore/requirements.txt"],
        [*pip, "--no-deps", "--force-reinstall", *map(str, (BUILD / "dist").glob("*.whl"))],
    )
    for step in steps:
        ok, said = run(*step)
        if not ok:
            break
    if tally.check("environment of MindSpore", ok, said):
        file.unlink(missing_ok=True)
        options = ["-q", "-s", "-W", "ignore", "-p", "no:cacheprovider", f"--junitxml={file}"]
        pytest: Command = [str(folder / "bin/python"), "-m", "pytest", *options, "tests/mindspore"]
        dumps = {"MS_OM_PATH": str(BUILD / "mindspore")}  # of graphs that were refused
        tally.cases("mindspore", file, *run(*pytest, settings=settings | dumps))


def isolated(tally: Tally) -> None:
    """`pip install .` as a user types it, into an environment that has nothing else."""
    folder = BUILD / "isolated"
    shutil.rmtree(folder, ignore_errors=True)
    ok, said = run(sys.executable, "-m", "venv", "--without-pip", folder)
    if ok:
        ok, said = run(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q", ".")
    if ok:
        ok, said = run(folder / "bin/python", "-m", "fusion_attention")
    tally.check("pip install . into an empty environment", ok, said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    RESULTS.mkdir(parents=True, exist_ok=True)
    # One fresh seed for all: the processes of pytest must agree on which cases there are.
    settings = {"FUSION_ATTENTION_SEED": os.environ.get("FUSION_ATTENTION_SEED", str(time.time_ns() % 10**9))}
    print(f"FUSION_ATTENTION_SEED={settings['FUSION_ATTENTION_SEED']}")
    counts = {"FUSION_ATTENTION_RANDOM_PROBLEMS": "3000", "FUSION_ATTENTION_FAMILY_CALLS": "1000",
              "FUSION_ATTENTION_CELL_CALLS": "1000", "FUSION_ATTENTION_INFER_CALLS": "5000",
              "FUSION_ATTENTION_INTEGER_CALLS": "5000", "FUSION_ATTENTION_SERVING_STEPS": "512",
              "FUSION_ATTENTION_HOSTILE_CALLS": "1000",
              "FUSION_ATTENTION_PROMPT_ROWS": "20971520"}  # fmt: skip
    counts = settings | (counts if full else {})

    tally = Tally()
    minutes = []

    def step(name: str, work: Callable[..., None], *arguments: Settings) -> None:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        work(tally, *arguments)
        minutes.append(f"{name} {(time.monotonic() - start) / 60:.1f}")

    step("lint", lint)
    step("C++", release, counts)
    step("Python", python, counts)
    step("wheel", wheel)
    if full:
        step("sanitizers", sanitizers, settings)
        step("arm64", arm64, settings)
        step("older CPUs", older_cpus, settings)
        step("pip install", isolated)
        step("MindSpore", mindspore, settings)

    print("minutes: " + ", ".join(minutes))
    print("".join(f"skipped {line}\n" for line in tally.skipped), end="")
    print("".join(f"failed  {line}\n" for line in tally.failed), end="")
    print(tally.line())
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
