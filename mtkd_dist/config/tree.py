"""The configuration tree: what a run is made of, with the sentence under each field as its help text.

Plain data without behaviour, so that every floor may read it. Presets fill it (`presets.py`), a YAML file and flags
change it (`load.py`), and `mtkd_dist.stages.check` refuses what cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Scale = Literal[2, 3, 4]
MethodName = Literal["mtkd", "mean", "kd", "at", "fakd", "dukd", "crosskd", "scratch"]
"""The methods that come with the package; `Config.method` may also name the file of another one."""
Distance = Literal["wavelet", "l1", "charbonnier"]
WireDtype = Literal["float16", "float32", "uint8"]
Precision = Literal["auto", "float32", "bfloat16"]
TeacherPrecision = Literal["auto", "float32", "bfloat16", "float16"]
OnDeadly = Literal["error", "skip"]
TeacherOutputsMode = Literal["live", "cached", "auto"]
OutputDtype = Literal["float16", "uint8"]


@dataclass(frozen=True)
class ImagesConfig:
    """How photographs are read."""

    on_bad: Literal["error", "skip"] = "error"
    """A photograph that cannot be used: stop and name it, or leave it out and count it."""
    held_out: float = 0.05
    """Share of the training photographs that is put aside to watch a training by, and scored when `test` is empty."""
    held_out_names: list[str] = field(default_factory=list)
    """Names or patterns (0801*, lake/*) of training photographs that are put aside instead of a share of them."""
    cache: str | None = None
    """Folder of the decoded images (raw uint8, memory-mapped); default: OUTPUT/images."""


@dataclass(frozen=True)
class TrainingConfig:
    """One training: a teacher, the aggregator or the student."""

    steps: int = 500_000
    """Optimizer steps."""
    batch_size: int = 16
    """Samples of one step over all student workers together."""
    patch: int = 32
    """Side of the low-resolution crop in pixels."""
    learning_rate: float = 2e-4
    """Adam's learning rate at the start."""
    halve_at: list[float] = field(default_factory=lambda: [0.5, 0.8, 0.9, 0.95])
    """The learning rate is halved at these shares of `steps`."""
    rates: list[float] = field(default_factory=list)
    """Learning rates of equal parts of the training, one after the other, instead of learning_rate and halve_at."""
    ema: float = 0.999
    """Decay of the exponential moving average whose weights are the result; 0 keeps the last weights."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    checkpoint_every: int = 5_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """So many of the newest checkpoints are kept, and the one at the best validation."""
    validate_every: int = 5_000
    """Steps between scores on the held-out photographs, made beside the training; 0: never."""
    result: Literal["last", "best"] = "last"
    """The weights that the stage hands on: the last ones, or those of the best validation."""
    precision: Precision = "auto"
    """Arithmetic of the trained network; auto: bfloat16 on a GPU, float32 on a CPU. Weights stay float32."""
    channels_last: bool = False
    """Keep the trained network and its batches in channels_last order, which convolutions on a GPU may prefer."""
    compile: bool = False
    """Compile the trained network with torch.compile; needs a C++ compiler on a CPU, and minutes at the start."""


@dataclass(frozen=True)
class LossConfig:
    """The student half of MTKD: wavelet loss to the aggregated image + l1_weight x L1 to the truth. Of `mean`, too."""

    distance: Distance = "wavelet"
    """What compares the student with that image: wavelet (the paper), l1, or charbonnier."""
    levels: int = 1
    """Levels of the wavelet transform."""
    l1_weight: float = 0.1
    """Weight of the L1 distance between student and high-resolution truth."""
    wavelet: str = "haar"
    """haar, or a discrete wavelet of PyWavelets (db2, sym4, bior2.2); only haar has a fused kernel."""
    band_weights: list[float] = field(default_factory=list)
    """Weights of the bands LL, LH (between rows), HL (between columns) and HH (diagonal), in this order and the same on
    every level; 0 leaves a band out; default: 1 for each."""
    charbonnier_eps: float = 1e-3
    """Charbonnier: sqrt(difference^2 + eps^2); images range from 0 to 1."""
    teacher_weights: list[float] = field(default_factory=list)
    """With mean and kd: how much each teacher counts, in their order (only ratios matter); default: all the same."""
    each_teacher: list[float] = field(default_factory=list)
    """With mtkd: weights of the same distance to each teacher's own image, in their order, beside the aggregated one
    (1); default: none of them."""


@dataclass(frozen=True)
class KDConfig:
    """The student half of kd: hr_weight x L1 to the truth + teacher_weight x L1 to the teachers' images."""

    hr_weight: float = 1.0
    """Weight of the L1 distance between student and high-resolution truth."""
    teacher_weight: float = 1.0
    """Weight of the L1 distance between student and teacher; of several teachers, of the mean distance."""


@dataclass(frozen=True)
class ATConfig:
    """The student half of at: that of kd + attention_weight x L1 between attention maps of student and teachers."""

    taps: list[str] = field(default_factory=lambda: ["early", "middle", "late"])
    """Submodules of the student whose features are compared, by name; early, middle and late are short for the last
    blocks of the thirds of any network's body."""
    teacher_taps: list[str] = field(default_factory=list)
    """Submodules of every teacher that they are compared with, in pairs; default: those of the same names."""
    hr_weight: float = 1.0
    """Weight of the L1 distance between student and high-resolution truth."""
    teacher_weight: float = 1.0
    """Weight of the mean L1 distance between student and teachers."""
    attention_weight: float = 10.0
    """Weight of the distance between attention maps, summed over taps; a mean over teachers."""


@dataclass(frozen=True)
class FAKDConfig:
    """The student half of fakd: that of kd + affinity_weight x L1 between affinities of pixels."""

    taps: list[str] = field(default_factory=lambda: ["early", "middle", "late"])
    """As at.taps."""
    teacher_taps: list[str] = field(default_factory=list)
    """As at.teacher_taps."""
    hr_weight: float = 0.5
    """Weight of the L1 distance between student and high-resolution truth."""
    teacher_weight: float = 0.5
    """Weight of the mean L1 distance between student and teachers."""
    affinity_weight: float = 10.0
    """Weight of the distance between affinities, summed over taps; a mean over teachers."""


@dataclass(frozen=True)
class DUKDConfig:
    """The student half of dukd: three questions for each crop, and answers that do not depend on how it is shown."""

    hr_weight: float = 5.0
    """Weight of the L1 distances to the truth."""
    teacher_weight: float = 1.0
    """Weight of the mean L1 distances to the teachers."""
    alter: float = 0.3
    """Probability of each alteration of what the student sees (inverted, mirrored, turned over, transposed)."""


@dataclass(frozen=True)
class CrossKDConfig:
    """The student half of crosskd: L1 to the truth + cross_weight x L1 of the teachers' tails on the student's
    features to the teachers' images."""

    tap: str = "middle"
    """Submodule of the student whose features go on into the teachers; see at.taps."""
    teacher_tap: str = ""
    """Submodule of every teacher in whose place they come; default: the one of the same name."""
    hr_weight: float = 1.0
    """Weight of the L1 distance between student and high-resolution truth."""
    cross_weight: float = 1.0
    """Weight of the mean distance through the teachers."""


@dataclass(frozen=True)
class LinkConfig:
    """The bounded queue between teacher pool and student pool."""

    slot_size: int = 4
    """Samples of one lease: what a teacher worker answers at a time. A step has batch_size / slot_size slots."""
    window_steps: int = 4
    """Steps that the teachers may be ahead of the slowest student."""
    max_bytes: int = 1 << 30
    """Largest number of bytes of answers that wait in the object store."""
    wire: WireDtype = "float16"
    """Type in which teacher signals travel."""
    starved_seconds: float = 600.0
    """A student that waits for the teachers while none of them answers for so long stops the run with a message."""
    hang_seconds: float = 120.0
    """A teacher worker that says nothing for so long over one slot is killed and started again (its first answer, which
    may compile, may take five times as long)."""
    on_deadly: OnDeadly = "error"
    """What to do with a slot over which three teacher workers died or failed: end the run, or skip its samples; both
    name the photographs."""
    min_teachers: int = 1
    """Teacher workers that must have loaded their networks before the students start; the others join later."""
    shards: int = 1
    """Links that share the slots of each step and the teacher workers; for hundreds of workers."""


@dataclass(frozen=True)
class AnswersConfig:
    """Teacher answers that are rendered once (teacher_outputs: cached)."""

    folder: str | None = None
    """Folder of the rendered images, which runs and sweeps may share; default: OUTPUT/teacher-outputs."""
    dtype: OutputDtype = "float16"
    """Type in which rendered images are stored; uint8 halves the disk, and the run says what it costs in PSNR."""
    max_bytes: int = 200_000_000_000
    """Largest number of bytes of the folder; rendering that would need more is refused before it starts."""


@dataclass(frozen=True)
class ClusterConfig:
    """The Ray cluster that the pools run on."""

    address: str | None = None
    """Running Ray cluster to join (--address for short): HOST:PORT of its head node, or auto for the one that this
    machine is part of; default: RAY_ADDRESS, or a cluster of this machine that ends with the run."""
    dashboard: bool = True
    """Show Ray's dashboard."""
    dashboard_host: str = "127.0.0.1"
    """Address that the dashboard listens at, where the run starts the cluster; another than this machine's own is
    refused without a token."""
    teacher_workers: int | None = None
    """Teacher workers where there is no GPU, one core each; default: what a short probe predicts to be fastest."""
    student_workers: int | None = None
    """Student workers where there is no GPU; default: the same. They share the cores that the teachers leave."""
    min_students: int | None = None
    """Student workers with which training goes on while there is no room for all; default: with all of them only."""


@dataclass(frozen=True)
class Config:
    """Distil several super-resolution teachers into one small student."""

    preset: str = "demo"
    """Where the defaults of all other keys come from."""
    output: str = "runs/demo"
    """Folder of everything that the run writes."""
    data: list[str] = field(default_factory=lambda: ["demo"])
    """Folders of photographs to train on; `demo` stands for those that come with scikit-image."""
    test: list[str] = field(default_factory=list)
    """Folders of photographs to score on (FOLDER or NAME=FOLDER); `demo`: held-out photographs of scikit-image."""
    method: str = "mtkd"
    """How the student learns: mtkd (from the aggregated image), mean (the same from the plain average of the teachers),
    kd (from the truth and each teacher's image), at (kd, and where the teachers look), fakd (kd, and which pixels are
    alike for them), dukd (kd on upcycled crops too), crosskd (the teachers' last layers judge its features), scratch
    (from the truth alone; teachers are not used); or a method of your own (FILE.py or FILE.py:key=value)."""
    teachers: list[str] = field(default_factory=lambda: ["edsr", "rcan", "swinir"])
    """Checkpoint files (FILE or FILE:name=X,input_range=255) or networks to train first (NAME or NAME:width=64)."""
    student: str = "edsr-baseline"
    """The network to train (NAME or NAME:width=32,blocks=4)."""
    more_students: list[str] = field(default_factory=list)
    """Further networks that learn from the same answers of the teachers, in the same steps, each as it would alone;
    each ends in a file of its own: student-NAME.safetensors."""
    student_weights: str | None = None
    """File of the same network, whose weights the student starts from (the paper's rate of 2e-5 suggests that it
    fine-tunes a trained one); default: random weights."""
    aggregator: str = "dctswin"
    """The network that turns the teachers' images into one (NAME or NAME:width=48); or an aggregator that an
    earlier run trained with these very teacher files (FILE.safetensors), which is used as it is."""
    teacher_precision: TeacherPrecision = "auto"
    """Arithmetic of the teachers and of the trained aggregator; auto: float16 on a GPU, float32 on a CPU."""
    scale: Scale = 4
    """Enlargement."""
    num_gpus: int | None = None
    """GPUs of both pools together; default: all that the cluster has."""
    teacher_gpus: int | None = None
    """GPUs of the teacher pool; default: what a short probe of both pools predicts to be fastest."""
    student_gpus: int | None = None
    """GPUs of the student pool; default: what the teacher pool leaves."""
    plan_only: bool = False
    """Measure teachers and student, print what each split of the devices would do, and stop."""
    teacher_outputs: TeacherOutputsMode = "live"
    """live: the teachers answer in every step; cached: they render every photograph once, and their GPUs go to the
    students; auto: what costs less, as measured before the start."""
    seed: int = 0
    """Seed of the weights and of the plan."""
    on_change: Literal["refuse", "restart"] = "refuse"
    """A stage that is half done with other settings or data: stop and show the difference, or begin it anew."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    teacher_training: TrainingConfig = field(default_factory=TrainingConfig)
    aggregate: TrainingConfig = field(default_factory=TrainingConfig)
    distil: TrainingConfig = field(default_factory=TrainingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    kd: KDConfig = field(default_factory=KDConfig)
    at: ATConfig = field(default_factory=ATConfig)
    fakd: FAKDConfig = field(default_factory=FAKDConfig)
    dukd: DUKDConfig = field(default_factory=DUKDConfig)
    crosskd: CrossKDConfig = field(default_factory=CrossKDConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
