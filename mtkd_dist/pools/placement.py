"""How many workers each pool gets and what each of them holds. Pure: given what the cluster has, no Ray."""

from __future__ import annotations

from dataclasses import dataclass

TEACHER_SHARE = 0.75
"""Teachers cost ten to a hundred times the student, so they get most GPUs where nothing was said or measured."""


class LayoutError(ValueError):
    """The wanted pools do not fit; the message says what was asked, what is there, and which flag mends it."""


@dataclass(frozen=True)
class Resources:
    """What a cluster has in all."""

    cpus: int
    gpus: int
    nodes: int = 1
    object_store_bytes: int = 1 << 62
    accelerators: tuple[str, ...] = ()
    """Types of its GPUs, as Ray calls them; empty where there are none, or only logical ones."""


@dataclass(frozen=True)
class PoolSize:
    """Workers of one pool and what each of them reserves."""

    workers: int
    cpus: float
    """CPU cores of one worker; also the number of its torch threads, rounded down, at least 1."""
    gpus: float
    """GPUs of one worker; below 1 when both pools share one."""

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Layout:
    """Both pools of one stage; `teachers` is None where the method has no teacher half."""

    students: PoolSize
    teachers: PoolSize | None

    def __str__(self) -> str:
        def say(name: str, pool: PoolSize) -> str:
            what = f"{pool.gpus:g} GPU" if pool.gpus else f"{pool.cpus:g} CPU"
            return f"{pool.workers} {name} worker{'s' if pool.workers > 1 else ''} ({what} each)"

        pools = [say("student", self.students)] + ([say("teacher", self.teachers)] if self.teachers else [])
        return ", ".join(reversed(pools))


def plan_layout(
    available: Resources,
    *,
    needs_teachers: bool,
    slots_per_step: int,
    num_gpus: int | None = None,
    teacher_gpus: int | None = None,
    student_gpus: int | None = None,
    teacher_workers: int | None = None,
    student_workers: int | None = None,
) -> Layout:
    """Split the cluster between the pools of one stage.

    With GPUs: one worker a GPU; a single GPU is shared by halves; `num_gpus` None means all. Without: `*_workers` CPU
    workers, by default half of the cores for teachers with one core each, the rest for one student.
    A method without teachers gets everything for its students, as many as divide `slots_per_step`.

    Errors: LayoutError when more is asked than there is, or when the students do not divide the slots of a step.
    """
    gpus = available.gpus if num_gpus is None else num_gpus
    if gpus > available.gpus:
        remedy = f"ask for at most {available.gpus}" if available.gpus else "leave it out to use CPU workers"
        raise LayoutError(
            f"--num-gpus {gpus}: this cluster has {available.gpus} GPUs (and {available.cpus} CPUs) on "
            f"{available.nodes} node{'s' if available.nodes > 1 else ''}; {remedy}, "
            "or name a larger cluster with --cluster.address"
        )
    if gpus:
        layout = _gpu_layout(available, gpus, teacher_gpus, student_gpus, needs_teachers, slots_per_step)
    else:
        if teacher_gpus or student_gpus:
            raise LayoutError(
                f"--teacher-gpus {teacher_gpus} --student-gpus {student_gpus}: there is no GPU to split; "
                "use --cluster.teacher-workers and --cluster.student-workers for CPU workers"
            )
        layout = _cpu_layout(available, teacher_workers, student_workers, needs_teachers, slots_per_step)
    if slots_per_step % layout.students.workers:
        raise LayoutError(
            f"{layout.students.workers} student workers cannot share {slots_per_step} slots of a step evenly "
            "(slots = batch_size / link.slot_size); choose a number of students that divides it (--student-gpus, "
            "--cluster.student-workers), or another batch_size or link.slot_size"
        )
    return layout


def _gpu_layout(
    available: Resources,
    gpus: int,
    teacher_gpus: int | None,
    student_gpus: int | None,
    needs_teachers: bool,
    slots_per_step: int,
) -> Layout:
    cpus = min(1.0, available.cpus / (2 * gpus))
    if not needs_teachers:
        return Layout(PoolSize(_largest_divisor(slots_per_step, gpus), cpus, 1), None)
    if gpus == 1 and teacher_gpus is None and student_gpus is None:
        return Layout(PoolSize(1, cpus, 0.5), PoolSize(1, cpus, 0.5))
    if teacher_gpus is None and student_gpus is None:
        student_gpus = _largest_divisor(slots_per_step, max(1, gpus - max(1, round(TEACHER_SHARE * gpus))))
    if teacher_gpus is None:
        teacher_gpus = gpus - (student_gpus or 0)
    if student_gpus is None:
        student_gpus = gpus - teacher_gpus
    if teacher_gpus < 1 or student_gpus < 1 or teacher_gpus + student_gpus > gpus:
        raise LayoutError(
            f"--teacher-gpus {teacher_gpus} and --student-gpus {student_gpus} do not fit into {gpus} GPUs; "
            "each pool needs at least one and both together at most --num-gpus"
        )
    return Layout(PoolSize(student_gpus, cpus, 1), PoolSize(teacher_gpus, cpus, 1))


def _cpu_layout(
    available: Resources,
    teacher_workers: int | None,
    student_workers: int | None,
    needs_teachers: bool,
    slots_per_step: int,
) -> Layout:
    students = student_workers or 1
    if not needs_teachers:
        return Layout(PoolSize(students, max(1, available.cpus // students), 0), None)
    teachers = teacher_workers or max(1, available.cpus // 2)
    if available.cpus < 2:
        # One core is shared by halves, as one GPU is.
        return Layout(PoolSize(students, 0.5 / students, 0), PoolSize(teachers, 0.5 / teachers, 0))
    if teachers + students > available.cpus:
        raise LayoutError(
            f"{teachers} teacher and {students} student workers need {teachers + students} CPUs, there are "
            f"{available.cpus}; lower --cluster.teacher-workers or --cluster.student-workers"
        )
    # A worker lies on one node.
    cores = min((available.cpus - teachers) // students, max(1, available.cpus // available.nodes))
    return Layout(PoolSize(students, cores, 0), PoolSize(teachers, 1, 0))


def _largest_divisor(number: int, at_most: int) -> int:
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)
