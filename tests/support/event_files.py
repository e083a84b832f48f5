"""TensorBoard's event files, read with their checksums checked."""

from __future__ import annotations

import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

from rtl import storage


def read_events(uri: str) -> list[Event]:
    """The events of a trial's files, each with its checksums checked."""
    return [event for entry in storage.list_files(uri) for event in read_file(entry.uri)]


def read_file(uri: str) -> list[Event]:
    data = storage.read_bytes(uri)
    events, at = [], 0
    while at < len(data):
        head, check = data[at : at + 8], data[at + 8 : at + 12]
        assert struct.unpack("<I", check)[0] == masked_crc32c(head)
        end = at + 12 + struct.unpack("<Q", head)[0]
        body = data[at + 12 : end]
        assert struct.unpack("<I", data[end : end + 4])[0] == masked_crc32c(body)
        events.append(Event.FromString(body))
        at = end + 4
    assert events[0].file_version == "brain.Event:2"
    assert "tfevents" in uri
    return events


def curves(uri: str) -> dict[str, list[tuple[int, float]]]:
    """By tag the steps and their values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(uri):
        for value in event.summary.value:
            if not value.tag.startswith("_hparams_"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def hparams(uri: str) -> dict[str, float]:
    """The hyperparameters that TensorBoard's table shows."""
    for event in read_events(uri):
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                entries = content.session_start_info.hparams.items()
                return {key: entry.number_value for key, entry in entries}
    raise AssertionError("no hyperparameters")
