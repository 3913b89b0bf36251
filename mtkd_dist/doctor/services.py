"""Whom a run would talk to: a Ray cluster, and MLflow."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.doctor.check import Check
from mtkd_dist.pools.cluster import address_of
from mtkd_dist.pools.errors import ClusterError

ENVIRONMENT = "MLFLOW_TRACKING_URI"


def ray_address(address: str | None, environ: Mapping[str, str], reach: Callable[[str], None]) -> Check:
    """`address`: as `--address`; `reach` raises ClusterError where nobody answers there."""
    try:
        joined = address_of(ClusterConfig(address=address), environ)
        if joined is None:
            return Check("ray address", "ok", "none: a run starts a cluster of this machine")
        if joined == "auto":
            return Check("ray address", "ok", "auto: the cluster of this machine, if ray status finds one")
        reach(joined)
    except ClusterError as error:
        said, _, remedy = str(error).partition("; ")
        return Check("ray address", "failed", said, remedy)
    return Check("ray address", "ok", f"{joined} answers")


def ray_token(address: str | None, environ: Mapping[str, str], home: Path) -> Check:
    """Whether a run would show a token to the cluster that it joins, and who may read it."""
    joins = (address or environ.get("RAY_ADDRESS") or "local") != "local"
    mode = environ.get("RAY_AUTH_MODE", "").lower()
    if (mode != "token") if joins else (mode not in ("", "token")):
        status = "takes orders from anybody who can reach it" if joins else "would ask for no token"
        return Check(
            "ray token",
            "warning",
            f"RAY_AUTH_MODE is {mode or 'unset'}: the cluster {status}",
            "export RAY_AUTH_MODE=token on all of its nodes (docs/clusters.md)",
        )
    file = Path(environ.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if environ.get("RAY_AUTH_TOKEN"):
        return Check("ray token", "ok", "in RAY_AUTH_TOKEN")
    if not file.exists():
        if not joins:
            return Check("ray token", "ok", f"Ray will write one into {file}")
        remedy = "copy the head node's file there, readable by you alone, or set RAY_AUTH_TOKEN"
        return Check("ray token", "failed", f"RAY_AUTH_MODE is token, and there is none in {file}", remedy)
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check("ray token", "warning", f"{file} may be read by other users", f"chmod 600 {file}")
    return Check("ray token", "ok", f"in {file}")


def mlflow(address: str | None, problem: Callable[[str], str | None]) -> Check:
    """`problem`: of an address, why nobody answers there; None where somebody does."""
    if not address:
        return Check("mlflow", "ok", f"{ENVIRONMENT} is unset: a run keeps mlflow.db in its output folder")
    found = problem(address)
    if found is None:
        return Check("mlflow", "ok", f"{address} answers")
    return Check(
        "mlflow",
        "failed",
        f"{address} does not answer: {found}",
        f"start the server, mend {ENVIRONMENT}, or unset it; meanwhile a run keeps what it has to say",
    )
