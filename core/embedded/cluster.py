"""PostgreSQL's data and the user that it runs as: made ready, then this process becomes the server.

Run as a script by the guard, which holds the lock on the data directory, with the standard
library alone:

    cluster.py ORDER

ORDER is JSON: the fields of ``Order``. What goes wrong is one line, the last of the log.

PostgreSQL refuses to be run by root. So root's service tries, in this order:

1. another user (postgres, or nobody), who is given the cluster and nothing else;
2. where that user cannot enter the data directory or read the binaries: a user namespace, in which
   the server is root's own process without any privilege, and takes itself for that user;
3. where that is forbidden, as in most containers: the other user again, with the cluster below
   STATE_DIRECTORY, named by a file in the data directory, and with a copy of the binaries there.

No directory is ever opened to others for it. The cluster is made in a temporary directory beside
its place and renamed when it is whole, so one that is half made is never taken for data.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CLUSTER_NAME = "postgres"
ELSEWHERE_NAME = "postgres.at"  # in the data directory: where the cluster is if it is not there
STATE_DIRECTORY = "/var/lib/stockade"  # or what systemd says in the variable of this name
OWNER_ROLE = "stockade_owner"
SERVICE_ROLE = "stockade"
DATABASE = "stockade"
SUPERUSER = "postgres"
NICENESS = 10
CORES_SHARE = 4  # one of so many cores, and at least one
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

# Each line is one command of a server in single-user mode. Nobody but the owner may make anything
# in the database, which is PostgreSQL's own rule from 15 on, or connect to it but the service.
_BOOTSTRAP = f"""\
CREATE ROLE {OWNER_ROLE} LOGIN
CREATE ROLE {SERVICE_ROLE} LOGIN
CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}
REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC
GRANT CONNECT ON DATABASE {DATABASE} TO {SERVICE_ROLE}
"""
# Who can reach the socket is let in, and nobody can but us: its directory is private.
_ACCESS = "local all all trust\n"


class Order(NamedTuple):
    """What to start, and where."""

    data: str
    runtime: str  # the directory of the socket
    binaries: str
    major: int  # version of the binaries
    options: list[str]
    fsync: bool
    stands_back: bool = False  # see stand_back; a service of before does not say


class Refused(Exception):
    """The server cannot be started; the message is one line."""


class User(NamedTuple):
    """Whom the server runs as: itself as we are, another user, or in a namespace as another."""

    uid: int
    gid: int
    namespace: bool = False

    @property
    def owner(self) -> tuple[int, int]:
        """To whom its files belong, seen from here."""
        return (os.getuid(), os.getgid()) if self.namespace else (self.uid, self.gid)

    def become(self) -> None:
        """Change this process, once and for ever; OSError if that is forbidden."""
        if self.namespace:
            if not hasattr(_LIBC, "unshare"):
                raise OSError("there are no user namespaces")
            mine = os.getuid(), os.getgid()
            if _LIBC.unshare(_CLONE_NEWUSER):
                raise OSError(ctypes.get_errno(), "unshare")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{self.uid} {mine[0]} 1")
            Path("/proc/self/gid_map").write_text(f"{self.gid} {mine[1]} 1")
        elif self.uid != os.getuid():
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)


def main(order: Order) -> None:
    """Make ready, and become the server."""
    os.chdir("/")
    os.umask(0o077)
    guard_pid = os.getppid()
    data = Path(order.data)
    user, cluster, binaries = _settle(order, data)
    if cluster.parent != data:
        _lock(cluster.parent)
    _own(Path(order.runtime), user)
    if not (cluster / "PG_VERSION").exists():
        if (data / ELSEWHERE_NAME).exists():
            raise Refused(f"{data / ELSEWHERE_NAME} says {cluster}, and no cluster is there")
        _make(cluster, user, binaries, order.fsync)
        if cluster.parent != data:
            _write_whole(data / ELSEWHERE_NAME, f"{cluster}\n")
    _check_version(cluster, order.major)
    _own(cluster, user)
    _forget_stranger(cluster, user)
    user.become()
    if order.stands_back and (why := stand_back()):
        print(f"it may run on any core: {why}", flush=True)
    _die_with(guard_pid)
    program = binaries / "postgres"
    os.execve(program, [str(program), "-D", str(cluster), *order.options], _environ())


def stand_back() -> str:
    """For this server, and the scribe that it works for: both write what happened already, and
    whoever waits for a reservation goes first.

    They have little weight, and keep to a quarter of the cores, on which others run as well: of two
    busy cores one is not theirs to step into (ADR 0028). Why they do not keep to them, if so.
    """
    os.nice(NICENESS)
    if not hasattr(os, "sched_setaffinity"):
        return f"{sys.platform} does not let a process choose"
    cores = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, cores[-max(1, len(cores) // CORES_SHARE) :])
    except OSError as error:  # a sandbox forbids it, or the cores were others a moment ago
        return str(error.strerror)
    return ""


def _settle(order: Order, data: Path) -> tuple[User, Path, Path]:
    """(whom to run as, the cluster's place, the binaries), found out by trying."""
    cluster, binaries = _place(data), Path(order.binaries)
    if os.getuid() != 0:
        return User(os.getuid(), os.getgid()), cluster, binaries
    other = _other_user()
    for user in (other, other._replace(namespace=True)):
        if _enters(user, cluster.parent) and _runs(user, binaries):
            return user, cluster, binaries
    if not _enters(other, cluster.parent):
        if cluster.exists():
            raise Refused(
                f"{cluster} cannot be entered by user {other.uid}, and user namespaces are "
                "forbidden here: let that user enter its directory, or allow them"
            )
        cluster = _elsewhere(data)
    if not _runs(other, binaries):
        binaries = _copied(binaries)
    if not _enters(other, cluster.parent) or not _runs(other, binaries):
        raise Refused(f"user {other.uid} can use neither {data} nor {_state_directory()}")
    print(f"the data of PostgreSQL is in {cluster}", flush=True)
    return other, cluster, binaries


def _other_user() -> User:
    """The user that PostgreSQL's own packages make, or else the one that owns nothing."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(entry.pw_uid, entry.pw_gid)
    raise Refused("root cannot run PostgreSQL, and there is neither a user postgres nor nobody")


def _enters(user: User, directory: Path) -> bool:
    return _tries(user, lambda: os.chdir(directory))


def _runs(user: User, binaries: Path) -> bool:
    def run() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        for name in ("initdb", "postgres"):
            os.stat(binaries / name)
        os.execv(binaries / "postgres", ["postgres", "--version"])

    return _tries(user, run)


def _tries(user: User, act: Callable[[], object]) -> bool:
    """True if ``user`` can do it; tried by a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with contextlib.suppress(OSError):
                user.become()
                act()
                status = 0
        finally:
            os._exit(status)  # whatever happened, nothing of ours is done twice
    return os.waitpid(pid, 0)[1] == 0


def _place(data: Path) -> Path:
    """Where the cluster is, or where it would be made."""
    try:
        return Path((data / ELSEWHERE_NAME).read_text().strip())
    except FileNotFoundError:
        return data / CLUSTER_NAME


def _state_directory() -> Path:
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or STATE_DIRECTORY)


def _make_passable(directory: Path) -> None:
    """Make a directory of ours below the state directory: others can pass, and list nothing."""
    for each in (directory.parent, directory):
        if not each.exists():
            each.mkdir(parents=True)
            each.chmod(0o711)


def _elsewhere(data: Path) -> Path:
    """A new place for a cluster below the state directory.

    Its name has a part by chance: what lies there for a data directory that is gone is another's.
    """
    digest = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]
    home = _state_directory() / f"{digest}-{secrets.token_hex(4)}"
    _make_passable(home)
    (home / "data").write_text(f"{data}\n")
    return home / CLUSTER_NAME


def _copied(binaries: Path) -> Path:
    """The binaries, with the libraries beside their package, where every user can read them."""
    package = binaries.parent.parent
    state = os.stat(binaries / "postgres")
    tag = f"{binaries} {state.st_size} {state.st_mtime_ns}".encode()
    home = _state_directory() / f"bin-{hashlib.sha256(tag).hexdigest()[:16]}"
    if not home.exists():
        _make_passable(home.parent)
        new = Path(tempfile.mkdtemp(prefix="bin-new-", dir=home.parent))
        for source in (binaries.parent, package.with_name(package.name + ".libs")):
            if source.exists():
                shutil.copytree(source, new / source.relative_to(package.parent))
        for directory, _, files in os.walk(new):
            for path in (directory, *(os.path.join(directory, name) for name in files)):
                os.chmod(path, 0o755)
        _rename(new, home)
    return home / binaries.relative_to(package.parent)


def _lock(home: Path) -> None:
    """Hold a cluster that is not in the data directory, of which there may be a copy.

    The server inherits it, as it does the lock on the data directory.
    """
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"{home} is in use by the service of another data directory") from None
    os.set_inheritable(descriptor, True)


def _make(cluster: Path, user: User, binaries: Path, fsync: bool) -> None:
    """initdb, the roles and the database, and only then the name."""
    if cluster.exists() and any(cluster.iterdir()):
        raise Refused(f"{cluster} is neither empty nor a cluster of PostgreSQL")
    for half_made in cluster.parent.glob(f"{CLUSTER_NAME}.new-*"):
        shutil.rmtree(half_made)
    new = Path(tempfile.mkdtemp(prefix=f"{CLUSTER_NAME}.new-", dir=cluster.parent))
    try:
        os.chown(new, *user.owner)
        initdb = [str(binaries / "initdb"), "-D", str(new)]
        single = [
            *(str(binaries / "postgres"), "--single", "-D", str(new)),
            *("-c", "exit_on_error=on", "-c", "fsync=off", "postgres"),
        ]
        _run_as(
            user,
            [
                *(*initdb, "--username", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
                *("--locale=C", "--data-checksums", "--no-instructions", "--no-sync"),
            ],
        )
        (new / "pg_hba.conf").write_text(_ACCESS)
        _run_as(user, single, _BOOTSTRAP)
        if fsync:  # once for all, which is several times faster than step by step
            _run_as(user, [*initdb, "--sync-only"])
        _rename(new, cluster)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # once it has its name there is nothing left


def _run_as(user: User, command: list[str], said: str = "") -> None:
    """Run one of PostgreSQL's programs; what it complains about goes to the log."""
    mine = os.getpid()

    def become() -> None:
        user.become()
        _die_with(mine)

    done = subprocess.run(
        command,
        input=said,
        text=True,
        env=_environ(),
        stdout=subprocess.DEVNULL,
        preexec_fn=become,  # this process has one thread
        check=False,
    )
    if done.returncode:
        raise Refused(f"{Path(command[0]).name} failed with status {done.returncode}")


def _check_version(cluster: Path, major: int) -> None:
    found = (cluster / "PG_VERSION").read_text().strip()
    if found != str(major):
        raise Refused(
            f"{cluster} was made by PostgreSQL {found}, and the binaries are of {major}: "
            f"name those of {found} with postgres_bin, or upgrade it with pg_upgrade"
        )


def _own(directory: Path, user: User) -> None:
    """Give a directory of ours to the user, its top last: if this is cut short it is done again."""
    if os.getuid() != 0 or directory.stat().st_uid == user.owner[0]:
        return
    for top, _, files in os.walk(directory, topdown=False):
        for path in (*(os.path.join(top, name) for name in files), top):
            os.chown(path, *user.owner, follow_symlinks=False)


def _forget_stranger(cluster: Path, user: User) -> None:
    """Remove a postmaster.pid that names a process which lives and is no server of this cluster.

    It is left by a crash, and its number was given to somebody else. We hold the lock, so no
    server of ours runs; one that was started by hand sits in the cluster. About a process that is
    gone PostgreSQL decides well by itself, from its shared memory.
    """
    path = cluster / "postmaster.pid"
    if not path.exists() or not os.path.exists("/proc/self/cwd"):
        return
    first = path.read_text().partition("\n")[0]

    def look() -> None:
        if not os.path.samefile(f"/proc/{int(first)}/cwd", cluster):
            raise ProcessLookupError(first)

    if first.isdigit():
        if not os.path.exists(f"/proc/{first}"):
            return
        # Root in a container may not look at others' processes, and in a namespace nobody may.
        if any(_tries(each, look) for each in (User(os.getuid(), os.getgid()), user)):
            return
    path.unlink()


def _die_with(parent: int) -> None:
    """Have this process told when its parent dies, where that can be had. Any change of user
    takes it back, so it is asked for after one."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)


def _environ() -> dict[str, str]:
    """Ours without what PostgreSQL would take for an order."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _rename(new, path)


def _rename(new: Path, name: Path) -> None:
    """Give what is whole its name, so that a power cut leaves either."""
    new.rename(name)
    directory = os.open(name.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


if __name__ == "__main__":
    try:
        main(Order(**json.loads(sys.argv[1])))
    except (OSError, subprocess.SubprocessError, Refused) as error:
        sys.exit(f"stockade: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("stockade: stopped while the cluster was made ready")
