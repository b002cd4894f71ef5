"""On what kind of file system a path lies."""

from __future__ import annotations

from pathlib import Path

_NETWORK = frozenset("nfs nfs4 cifs smb3 smbfs 9p ceph glusterfs lustre gpfs beegfs afs ncpfs davfs".split())


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """`ext4`, `nfs4`: of the longest mount point above it; None where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    wanted, best, kind = path.resolve(), -1, None
    for line in lines:
        _, point, found, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        if wanted.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), found
    return kind


def is_on_network(kind: str | None) -> bool:
    """Whether another machine holds the files."""
    return kind is not None and (kind in _NETWORK or (kind.startswith("fuse.") and kind != "fuse.overlayfs"))
