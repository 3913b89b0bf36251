"""Networks: students and teachers by name, teachers from files, and the aggregator that makes one image of theirs."""

from mtkd_dist.models.aggregator import DCTSwin, build_aggregator, parse_aggregator
from mtkd_dist.models.aggregator_file import aggregator_metadata, aggregator_path, is_aggregator, load_aggregator
from mtkd_dist.models.provenance import check_student, teachers_text
from mtkd_dist.models.registry import build_network, count_params, is_network_name, network_names, parse_network
from mtkd_dist.models.sizes import NetworkSpec
from mtkd_dist.models.start import starting_weights
from mtkd_dist.models.weights import (
    LoadedNetwork,
    WeightsMismatch,
    check_input_range,
    digest_file,
    load_network,
    load_strict,
    read_metadata,
    read_state_dict,
    save_network,
    save_tensors,
)

__all__ = [
    "DCTSwin",
    "LoadedNetwork",
    "NetworkSpec",
    "WeightsMismatch",
    "aggregator_metadata",
    "aggregator_path",
    "build_aggregator",
    "build_network",
    "check_input_range",
    "check_student",
    "count_params",
    "digest_file",
    "is_aggregator",
    "is_network_name",
    "load_aggregator",
    "load_network",
    "load_strict",
    "network_names",
    "parse_aggregator",
    "parse_network",
    "read_metadata",
    "read_state_dict",
    "save_network",
    "save_tensors",
    "starting_weights",
    "teachers_text",
]
