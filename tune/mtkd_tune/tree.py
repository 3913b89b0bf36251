"""The configuration of a sweep, with the sentence under each field as its help text. Plain data without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mtkd_dist.config.tree import ClusterConfig

Target = Literal["distil", "aggregate"]
Objective = Literal["psnr_y", "params", "latency_ms"]


@dataclass(frozen=True)
class AshaConfig:
    """Early stopping: of the trials that reach a rung, only the best part goes on."""

    grace_steps: int = 0
    """Steps that every trial makes; 0: a quarter of the target's steps, but at least up to its first validation."""
    reduction_factor: int = 3
    """One of so many trials goes on from a rung; the next rung is so many times as far."""


@dataclass(frozen=True)
class PbtConfig:
    """Population-based training of the schedule: at the end of each part, bad trials go on from good ones' weights."""

    population: int = 4
    """Trials that train side by side, or by turns where there is no room."""
    parts: int = 5
    """Equal parts of the training, each with a learning rate of its own."""
    factors: list[float] = field(default_factory=lambda: [0.5, 0.8, 1.25, 2.0])
    """By one of these the learning rate of a copied trial changes."""


@dataclass(frozen=True)
class TrialConfig:
    """What one trial needs and how it is treated."""

    cpus: float = 1.0
    """CPU cores of one trial."""
    gpus: float | None = None
    """GPUs of one trial, also a part of one (0.25: four trials share a card, and each gets a quarter of its memory);
    default: one where there are GPUs."""
    retries: int = 1
    """So often a trial that crashed is started again, from its last checkpoint, before it is reported as failed."""
    concurrent: int | None = None
    """Trials at a time; default: as many as there is room for."""


@dataclass(frozen=True)
class SweepConfig:
    """Search hyper-parameters of aggregator, loss and training, with teachers that answer once for all trials."""

    output: str = "runs/sweep"
    """Folder of everything that the sweep writes."""
    launch: dict[str, Any] = field(default_factory=lambda: {"preset": "demo-sweep"})
    """Keys of a launch's configuration that all trials share (preset, data, teachers, distil: {steps: ...})."""
    search: dict[str, Any] = field(
        default_factory=lambda: {
            "aggregator.layers": {"choice": [2, 4]},
            "aggregator.dct_norm": {"choice": ["none", "ortho"]},
            "loss.levels": {"choice": [1, 2, 3]},
            "loss.l1_weight": {"loguniform": [0.03, 1.0]},
            "distil.learning_rate": {"loguniform": [5e-4, 5e-3]},
        }
    )
    """Key of a launch's configuration, or option of a network in it (aggregator.width), -> where its values come from:
    choice: [...], uniform: [low, high], loguniform: [low, high], int: [low, high] or int: [low, high, step]."""
    target: Target = "distil"
    """The training whose validations are the trial's score; aggregate: no student is trained."""
    objectives: list[Objective] = field(default_factory=lambda: ["psnr_y"])
    """What is to be good: psnr_y [dB] alone, or against params (parameters) or latency_ms of the target's network."""
    num_samples: int = 20
    """Trials; with pbt its population counts instead."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How values are chosen: by Optuna's multivariate TPE, or at random."""
    scheduler: Literal["asha", "none", "pbt"] = "asha"
    """Early stopping (asha), none, or population-based training of the learning rate (pbt)."""
    asha: AshaConfig = field(default_factory=AshaConfig)
    pbt: PbtConfig = field(default_factory=PbtConfig)
    trial: TrialConfig = field(default_factory=TrialConfig)
    num_gpus: int | None = None
    """GPUs of the whole sweep; default: all that the cluster has."""
    teacher_gpus: int | None = None
    """Of these, GPUs of the teachers that all trials share, where they answer live; default: half of them."""
    teacher_workers: int = 1
    """Teacher workers that all trials share, where they answer live and there is no GPU; one core each."""
    seed: int = 0
    """Seed of the search. That of weights and plan is the launch's, the same for all trials."""
    resume: bool = False
    """Go on with the sweep in the output folder: finished trials count, interrupted ones go on."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
