"""A Python and an environment for each peer's process; what is absent is a reason, never a failure.

A peer's packages go into an environment of their own under build/bench, on top of the one that runs this:
torch and this library are shared, and no peer can change another's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from .peers import Entry

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
INSTALL_SECONDS = 900
VENDOR_CHECK = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


class Absent(Exception):
    """Why a peer cannot run here."""


@dataclass(frozen=True)
class Environment:
    python: Path = Path(sys.executable)
    variables: dict[str, str] = field(default_factory=dict)


def environment(entry: Entry) -> Environment:
    if entry.needs_compiler and not _compiler("c++", "g++", "clang++"):
        raise Absent("there is no C++ compiler")
    if entry.lifts_mkl_check:
        return Environment(variables={"LD_PRELOAD": str(_vendor_library())})
    if not entry.packages:
        return Environment()
    return Environment(_installed(entry))


def pins(packages: tuple[str, ...]) -> list[str]:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.partition("==")[0] in packages]


def _compiler(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


def _vendor_library() -> Path:
    """MKL asks one function whether the CPU is Intel's and takes a slow path if it is not: this says yes."""
    if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
        raise Absent("the CPU is Intel's: MKL takes its fast path anyway, so this is `torch`")
    compiler = _compiler("cc", "gcc", "clang")
    if not compiler:
        raise Absent("there is no C compiler")
    FOLDER.mkdir(parents=True, exist_ok=True)
    source, library = FOLDER / "vendor.c", FOLDER / "libvendor.so"
    source.write_text(VENDOR_CHECK)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Absent(f"the library for MKL's vendor check was not built: {_last_line(done.stderr)}")
    return library


def _installed(entry: Entry) -> Path:
    folder = FOLDER / entry.packages[0]
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256("\n".join([sys.executable, *pins(entry.packages)]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {' '.join(pins(entry.packages))} into {folder.relative_to(ROOT)}", flush=True)
    make = [sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)]
    carry_out(make, "its environment was not made")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = sysconfig.get_path("purelib")
    (folder / "lib" / version / "site-packages" / "shared.pth").write_text(shared + "\n")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--only-binary",
        ":all:",
    ]
    carry_out([*install, *pins(entry.packages)], "its packages were not installed")
    carry_out([str(python), "-c", "import " + ", ".join(entry.modules)], "it does not import")
    stamp.write_text(wanted)
    return python


def overhead_program(build: bool) -> Path:
    """The C++ program of overhead.cc, up to date if it may be built (minutes, the first time)."""
    folder = FOLDER / "cpp"
    program = folder / "overhead"
    if build:
        if not _compiler("c++", "g++", "clang++") or not shutil.which("cmake"):
            raise Absent("there is no C++ compiler, or no CMake")
        options = ("CMAKE_BUILD_TYPE=Release", "FUSION_ATTENTION_BENCH=ON", "FUSION_ATTENTION_TESTS=OFF")
        configure = ["cmake", "-S", str(ROOT), "-B", str(folder), *(f"-D{option}" for option in options)]
        carry_out(configure, "CMake refused it")
        jobs = str(len(os.sched_getaffinity(0)))
        carry_out(["cmake", "--build", str(folder), "-j", jobs, "--target", "overhead"], "it was not built")
    if not program.exists():
        raise Absent("not built: `python -m bench.overhead` does")
    return program


def carry_out(command: list[str], otherwise: str) -> None:
    """Runs it, and is Absent("otherwise: why") where it fails."""
    settings = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=settings)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"{otherwise}: {error}") from None
    if done.returncode:
        raise Absent(f"{otherwise}: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:300]
