"""All stages in their order: teachers -> aggregate -> distil -> evaluate. The method says which there are."""

from __future__ import annotations

from mtkd_dist.stages.aggregate import run_aggregate
from mtkd_dist.stages.answers_choice import reads_rendered
from mtkd_dist.stages.distil import run_distil
from mtkd_dist.stages.distil_method import needs_aggregator
from mtkd_dist.stages.evaluate import run_evaluate
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.scores import Row
from mtkd_dist.stages.teachers import run_teachers
from mtkd_dist.stages.training import check_results


def run_stages(run: Run) -> list[Row]:
    """Do what is not done yet; returns the rows of scores.json."""
    check_results(run)
    teachers = run_teachers(run)
    cached = reads_rendered(run, teachers)
    aggregator = run_aggregate(run, teachers, cached) if needs_aggregator(run.config) else None
    student = run_distil(run, teachers, aggregator, cached)
    return run_evaluate(run, teachers, aggregator, student)
