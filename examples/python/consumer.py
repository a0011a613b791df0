#!/usr/bin/env python3
"""Follows the events of a Kazoo account through hawking for ever, and says where some may be missing. Python 3.11 or newer.

    cd examples/python
    pip install --require-hashes -r requirements.txt
    python -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. ../../proto/hawking/v1/*.proto
    python consumer.py 127.0.0.1:50051 ACCOUNT_ID calls.cursor 'call.*.*'

To copy it: put your own work into `handle` and `missed`. Everything else is what the contract of `hawking.v1` asks of a
consumer; docs/consuming.md says why. An event may come twice (after a crash of yours, or from another gateway), so
`handle` has to bear that.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from contextlib import aclosing
from datetime import datetime, timedelta, timezone

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from hawking.v1 import event_pb2
from hawking.v1 import event_service_pb2 as pb
from hawking.v1 import event_service_pb2_grpc as rpc

BACKOFF_FIRST, BACKOFF_LAST = 0.25, 10.0  # seconds, the bounds of a delay that is all chance
GOOD_LIFE = 5.0  # a stream that lived so long was a success: the backoff starts over
OPEN_TIMEOUT = 30.0  # the server may wait for Kazoo before it answers
CLOCK_MARGIN = timedelta(seconds=2)  # between the clocks of two gateways


# --- Yours ------------------------------------------------------------------------------------------------------------


def handle(event):
    """One event. When this returns the event counts as handled: its cursor may be stored."""
    say("event", text(event.cursor), event.name, event.call_id)


def missed(gap):
    """Events of these bindings may be missing. Without an end the gap lasts, and is told again when it is over: then ask
    Kazoo how things are now, if you keep a state. What comes meanwhile comes on this stream."""
    since = gap.start_time.ToDatetime(timezone.utc) if gap.HasField("start_time") else None
    until = gap.end_time.ToDatetime(timezone.utc) if gap.HasField("end_time") else None
    reason = pb.GapReason.Name(gap.reason).removeprefix("GAP_REASON_")
    say("gap", f"from={stamp(since)}", f"to={stamp(until)}", f"reason={reason}", f"bindings={','.join(gap.bindings)}")


# --- The contract -----------------------------------------------------------------------------------------------------


async def consume(options, store):
    """Subscribes, and comes back whenever the stream ends. Returns only where it would be in vain."""
    position = store.load()  # (cursor, time) up to which everything was handled
    since = None  # where to start by time, because the cursor is of no use
    delay_bound = BACKOFF_FIRST
    while True:
        began, asked_at = time.monotonic(), datetime.now(timezone.utc)
        if position is not None:
            start = {"resume_after": position[0]}
        elif since is not None:
            start = {"start_time": since, "replay_miss_policy": pb.REPLAY_MISS_POLICY_GAP}
        else:
            start = {}  # live
        try:
            async with aclosing(stream(options, start)) as messages:
                async for message in messages:
                    kind = message.WhichOneof("kind")
                    if kind == "event":
                        handle(message.event)
                        position = message.event.cursor, message.event.receive_time.ToDatetime(timezone.utc)
                    elif kind == "heartbeat":
                        # As good as an event's cursor, so a quiet consumer does not fall out of the replay window.
                        position = message.heartbeat.position, message.heartbeat.time.ToDatetime(timezone.utc)
                    elif kind == "gap":
                        missed(message.gap)
                    elif kind == "subscribed":
                        for binding in message.subscribed.bindings:
                            if binding.state == pb.BINDING_STATE_REFUSED:
                                note(f"{binding.requested} is refused: {binding.reason}")
                        if not start:
                            position = message.subscribed.position, asked_at
                    store.save(position)
        except Ended as ended:  # and no error of yours
            code, reason, words = ended.args
        finally:
            store.save(position, now=True)
        # What is too large for this client would come again, for ever. gRPC's own library says so, without a reason.
        too_large = code == grpc.StatusCode.RESOURCE_EXHAUSTED and not reason and "larger than max" in words
        if reason:
            words = f"{words} [{reason}]"

        lived = time.monotonic() - began >= GOOD_LIFE
        if lived:
            delay_bound = BACKOFF_FIRST
        if reason in ("EPOCH_CHANGED", "REPLAY_WINDOW_EXCEEDED", "INVALID_CURSOR") and position is not None:
            # The log is another one, as after a restart of the gateway, or does not go back so far. Ask by time for what
            # there is; a gap tells of the rest.
            note(f"cannot resume: {words}")
            position, since = None, position[1] - CLOCK_MARGIN
            continue
        # INVALID_TIME is of another gateway, whose clock is behind: that passes.
        if too_large or reason != "INVALID_TIME" and code in (
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNIMPLEMENTED,
        ):
            sys.exit(f"refused, and it would be again: {words}")
        leaving = ("DRAINING", "MAX_STREAM_AGE", "DISCONNECTED", "CREDENTIALS_EXPIRED")
        at_once = code == grpc.StatusCode.ABORTED or reason in leaving
        if at_once and lived:
            delay = random.uniform(0, 0.5)  # not all consumers in the same instant
        else:
            delay = random.uniform(0, delay_bound)
            delay_bound = min(delay_bound * 2, BACKOFF_LAST)
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            delay += 30  # there is no room: wait long
        note(f"{words}; again in {delay:.1f} s")
        await asyncio.sleep(delay)


class Ended(Exception):
    """A stream has ended: the code, the machine's reason, the words."""


async def stream(options, start):
    """The messages of one stream, and then `Ended`. It is dead, without a code, when nothing came for three heartbeats."""
    request = pb.SubscribeRequest(
        account_id=options.account,
        bindings=options.bindings,
        **start,
        payload_format=pb.PAYLOAD_FORMAT_TYPED,
        client_name="consumer.py",
    )
    request.heartbeat_interval.FromMilliseconds(int(options.heartbeat * 1000))
    # A connection for each stream: after a dead one the next must not be sent down the same hole. Without a pool of its
    # own, a new channel would take the old one's connection.
    channel_options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", 64 << 20),  # events of 1 MB exist, and TYPED can be larger
    ]
    async with grpc.aio.insecure_channel(options.server, options=channel_options) as channel:
        call = rpc.EventServiceStub(channel).Subscribe(request)
        patience = OPEN_TIMEOUT
        while True:
            try:
                async with asyncio.timeout(patience):
                    message = await call.read()
            except TimeoutError:
                raise Ended(None, "", "no message, not even a heartbeat: the stream is dead") from None
            except grpc.aio.AioRpcError as error:
                raise Ended(error.code(), error_reason(error), error.details() or "") from None
            if message is grpc.aio.EOF:
                raise Ended(grpc.StatusCode.OK, "", "the stream ended without a status")
            yield message
            patience = 3 * options.heartbeat


def error_reason(error):
    """The machine's reason, such as EPOCH_CHANGED; empty for what the server did not say itself."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason
    return ""


class CursorFile:
    """The position in a file: replaced as a whole, once a second at most, and at the end of each stream."""

    def __init__(self, path, account):
        self.path, self.account = path, account
        self.stored, self.stored_at = None, 0.0

    def load(self):
        try:
            with open(self.path, encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError:
            return None
        if content["account"] != self.account:
            sys.exit(f"{self.path} belongs to account {content['account']}: a cursor means nothing elsewhere")
        epoch, _, sequence = content["cursor"].rpartition(":")
        self.stored = (
            event_pb2.Cursor(epoch=epoch, sequence=int(sequence)),
            datetime.fromisoformat(content["time"].replace("Z", "+00:00")),
        )
        return self.stored

    def save(self, position, now=False):
        if position is None or position == self.stored:
            return
        if not now and time.monotonic() - self.stored_at < 1:
            return
        temporary = f"{self.path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            cursor, moment = position
            json.dump({"account": self.account, "cursor": text(cursor), "time": stamp(moment)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        self.stored, self.stored_at = position, time.monotonic()


# --- The rest ---------------------------------------------------------------------------------------------------------


def text(cursor):
    return f"{cursor.epoch}:{cursor.sequence}"


def stamp(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else ""


def say(*words):
    print(*words, flush=True)


def note(words):
    print("#", words, file=sys.stderr, flush=True)


async def main():
    parser = argparse.ArgumentParser(description="Follows the events of a Kazoo account through hawking.")
    parser.add_argument("server", help="HOST:PORT")
    parser.add_argument("account", help="the account's id")
    parser.add_argument("cursor_file", help="where the cursor is kept")
    parser.add_argument("bindings", nargs="*", default=["call.*.*"], help="such as 'call.*.*'")
    parser.add_argument("--heartbeat", type=float, default=10.0, help="seconds")
    options = parser.parse_args()
    consumer = asyncio.ensure_future(consume(options, CursorFile(options.cursor_file, options.account)))
    for end in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(end, consumer.cancel)
    try:
        await consumer
    except asyncio.CancelledError:
        pass  # told to end; the cursor is stored


if __name__ == "__main__":
    asyncio.run(main())
