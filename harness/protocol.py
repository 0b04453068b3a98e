"""What an executor and its worker process say to each other: tagged JSON messages over a pipe.

    executor                      worker
                                  Ready, or Broken and the end
    MeasureRates                  RatesMeasured
    Evaluate                      Phase, Checked, Phase, Measured, ... Finished

A worker announces each phase before it begins it, so that whoever finds it dead or late knows where.
"""

from __future__ import annotations

import msgspec

from harness.executor import MeasurePlan
from harness.record import CheckResult, DeviceFacts, Measurement, Outcome, Rates


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages; the class's name is the tag."""


class MeasureRates(Message, frozen=True):
    pass


class Evaluate(Message, frozen=True):
    folder: str
    plan: MeasurePlan
    rates: Rates | None  # None when the plan times nothing


class Ready(Message, frozen=True):
    device: DeviceFacts


class Broken(Message, frozen=True):
    """The device cannot be used at all; `reason` is one line."""

    reason: str


class RatesMeasured(Message, frozen=True):
    rates: Rates


class Phase(Message, frozen=True):
    name: str


class Checked(Message, frozen=True):
    check: CheckResult


class Measured(Message, frozen=True):
    measurement: Measurement


class Finished(Message, frozen=True):
    outcome: Outcome
    reason: str = ""


Request = MeasureRates | Evaluate
Reply = Ready | Broken | RatesMeasured | Phase | Checked | Measured | Finished

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_reply = msgspec.json.Decoder(Reply).decode
