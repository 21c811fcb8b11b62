"""The API's wire format, held against its .proto and against what rkt 1.30's clients send."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rkt.services import api_pb2 as pb

SRC = os.path.join(os.path.dirname(__file__), "..", "..", "src")
PROTO = "rkt/services/api.proto"

# The reference (rkt-cli section 12.2): the numbers are the wire format.
NUMBERS = {
    "Image": "base_format id name version import_timestamp manifest size annotations labels",
    "Network": "name ipv4 ipv6",
    "App": "name image state exit_code annotations",
    "Pod": "id pid state apps networks manifest annotations cgroup created_at started_at "
           "gc_marked_at",
    "KeyValue": "Key value",
    "PodFilter": "ids states app_names image_ids network_names annotations cgroups "
                 "pod_sub_cgroups",
    "ImageFilter": "ids prefixes base_names keywords labels imported_after imported_before "
                   "annotations full_names",
    "GlobalFlags": "dir system_config_dir local_config_dir user_config_dir insecure_flags "
                   "trust_keys_from_https",
    "Info": "rkt_version appc_version api_version global_flags",
    "Event": "type id from time data",
    "EventFilter": "types ids names since_time until_time",
    "GetLogsRequest": "pod_id app_name lines follow since_time until_time",
}  # fmt: skip


def test_what_is_generated_is_in_step(tmp_path: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", SRC, f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", PROTO],
        check=True,
    )  # fmt: skip
    for name in ("api_pb2.py", "api_pb2.pyi"):
        with (
            open(f"{tmp_path}/rkt/services/{name}") as made,
            open(f"{SRC}/rkt/services/{name}") as kept,
        ):
            assert made.read() == kept.read(), "api.proto was changed: make proto"


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_reference(name: str) -> None:
    fields = pb.DESCRIPTOR.message_types_by_name[name].fields
    assert {f.name: f.number for f in fields} == {
        field: number for number, field in enumerate(NUMBERS[name].split(), 1)
    }


def test_signed_fields_are_written_zigzag() -> None:
    assert pb.Pod(pid=-1).SerializeToString() == b"\x10\x01"
    assert pb.App(exit_code=-1).SerializeToString() == b"\x20\x01"
