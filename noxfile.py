"""All checks: ``nox`` runs the default sessions, ``nox -s tests`` one of them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = [
    "lint",
    "imports",
    "typing",
    "tests",
    "tensorbay_newest",
    "minimums",
    "docs",
    "build",
]

PROJECT = nox.project.load_toml("pyproject.toml")
IN_TWO = ("-n", "2", "--dist", "loadfile")  # most tests keep less than two cores busy
CODE = ("flowercnn", "tests", "docs", "noxfile.py")


def groups(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, *names)


@cache
def dist() -> Path:
    """Return the folder of the wheel, which is empty when nox starts."""
    folder = Path(".nox", "dist").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def build_wheel(session: nox.Session) -> Path:
    """Return the path of the wheel, which the first session that needs it builds for all."""
    if not any(dist().glob("*.whl")):
        session.install("build")
        session.run("python", "-m", "build", "--wheel", "--outdir", str(dist()), silent=True)
    return next(dist().glob("*.whl"))


def chosen(session: nox.Session, *conditions: str) -> tuple[str, ...]:
    """Return pytest's options for the tests marked ``versions``, or for all after ``-- --all``."""
    marks = [*conditions, "not backbones"]
    arguments = [each for each in session.posargs if each != "--all"]
    if len(arguments) == len(session.posargs):
        marks.insert(0, "versions")
    return ("-m", " and ".join(marks), *arguments)


def install(session: nox.Session, *names: str) -> None:
    """Install the wheel and some dependency groups, in the versions of the lock file."""
    wheel = build_wheel(session)
    locked = Path(session.create_tmp()) / "locked.txt"
    session.install("uv")
    session.run(
        "uv",
        "export",
        "--frozen",
        "--all-groups",
        "--no-hashes",
        "--no-emit-project",
        "--quiet",
        "-o",
        str(locked),
    )
    session.install(str(wheel), *groups(*names), "--constraint", str(locked))


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    session.install(*groups("lint"))
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session(python="3.11")
def imports(session: nox.Session) -> None:
    install(session, "imports")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session(python="3.11")
def typing(session: nox.Session) -> None:
    install(session, "typing")
    session.run("mypy")


@nox.session(python=["3.11"])
def tests(session: nox.Session) -> None:
    """The tests against the installed wheel, two files at a time, with branch coverage."""
    install(session, "test")
    command = ("pytest", *IN_TWO, "--cov", "--cov-report=", "--cov-fail-under=0", "--durations=5")
    session.run(*command, *session.posargs, env={"PYTHONSAFEPATH": "1"})
    if not session.posargs:
        session.run("coverage", "report")


@nox.session(python="3.11")
def tensorbay_newest(session: nox.Session) -> None:
    """The tests of TensorBay marked ``versions`` with the newest SDK; all after ``-- --all``.

    It is forced in beside a numpy-quaternion that fits NumPy 2.
    """
    install(session, "test")
    session.install("--no-deps", "tensorbay==1.24.2")
    command = ("pytest", *IN_TWO, "tests/sources/tensorbay", *chosen(session))
    session.run(*command, env={"PYTHONSAFEPATH": "1"})


@nox.session(python=["3.12", "3.13"])
def newer(session: nox.Session) -> None:
    """The tests on the newer Pythons, where they are installed."""
    install(session, "test")
    session.run("pytest", *IN_TWO, *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session(python="3.11")
def backbones(session: nox.Session) -> None:
    """Every network of keras.applications: built, trained a step, saved, loaded."""
    install(session, "test")
    session.run("pytest", "-m", "backbones", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session(python="3.11", venv_backend="uv")
def minimums(session: nox.Session) -> None:
    """The tests marked ``versions`` with the oldest dependencies; all after ``-- --all``."""
    wheel = build_wheel(session)
    # The dependencies are named by themselves: of a wheel, only the wheel would be the lowest.
    lowest = ("--resolution", "lowest-direct", "--all-extras", "--group", "test")
    session.install(*lowest, "-r", "pyproject.toml")
    session.install("--no-deps", str(wheel))
    old = (
        "-W",
        "ignore::DeprecationWarning",
    )  # what old packages call in new ones is not ours to change
    # TensorBay's oldest version is the locked one, which the other tests have; what examples call
    # has its own tests.
    left_out = ("--ignore=tests/sources/tensorbay", "--ignore=tests/test_examples.py")
    command = ("pytest", *IN_TWO, *left_out, *old, *chosen(session, "not slow"))
    session.run(*command, env={"PYTHONSAFEPATH": "1"})


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-E", "docs", "docs/_build/html")


@nox.session(python="3.11")
def build(session: nox.Session) -> None:
    """The wheel is small and holds no pictures."""
    wheel = build_wheel(session)
    session.run("python", "tests/check_wheel.py", str(wheel))


@nox.session(python="3.11")
def bench(session: nox.Session) -> None:
    """The benchmarks: ``nox -s bench -- FOLDER`` with one sub-folder of photographs per class."""
    install(session)
    session.run("python", "tests/benchmarks/listing.py")
    session.run("python", "tests/benchmarks/features.py")
    session.run("python", "tests/benchmarks/tutorial.py", *session.posargs)
