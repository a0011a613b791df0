#!/usr/bin/env node
// Follows the events of a Kazoo account through hawking for ever, and says where some may be missing.
//
//     cd examples/node
//     npm ci --ignore-scripts
//     node consumer.js 127.0.0.1:50051 ACCOUNT_ID calls.cursor 'call.*.*'
//
// To copy it: take the folder proto along (`--protos FOLDER`), and put your own work into `handle` and `missed`. Everything
// else is what the contract of `hawking.v1` asks of a consumer; docs/consuming.md says why. An event may come twice (after a
// crash of yours, or from another gateway), so `handle` has to bear that.

import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const BACKOFF_FIRST = 250; // ms, the bounds of a delay that is all chance
const BACKOFF_LAST = 10_000;
const GOOD_LIFE = 5_000; // a stream that lived so long was a success: the backoff starts over
const OPEN_TIMEOUT = 30_000; // the server may wait for Kazoo before it answers
const CLOCK_MARGIN = 2_000; // between the clocks of two gateways

// --- Yours -----------------------------------------------------------------------------------------------------------

// One event. When this is done the event counts as handled: its cursor may be stored.
async function handle(event) {
  console.log('event', text(event.cursor), event.name, event.call_id);
}

// Events of these bindings may be missing. Without an end the gap lasts, and is told again when it is over: then ask Kazoo
// how things are now, if you keep a state. What comes meanwhile comes on this stream.
async function missed({ start_time, end_time, reason, bindings }) {
  const short = reason.replace('GAP_REASON_', '');
  console.log('gap', `from=${stamp(start_time)}`, `to=${stamp(end_time)}`, `reason=${short}`, `bindings=${bindings}`);
}

// --- The contract ----------------------------------------------------------------------------------------------------

const end = new AbortController(); // by a signal
let call; // the stream that is open

// Subscribes, and comes back whenever the stream ends. Throws only where it would be in vain.
async function consume(options, store) {
  let position = store.load(); // { cursor, time } up to which everything was handled
  let since; // where to start by time, because the cursor is of no use
  let delayBound = BACKOFF_FIRST;
  while (!end.signal.aborted) {
    const began = Date.now();
    let start = {}; // live
    if (position) start = { resume_after: position.cursor };
    else if (since) start = { start_time: since, replay_miss_policy: 'REPLAY_MISS_POLICY_GAP' };
    let error;
    try {
      for await (const message of stream(options, start)) {
        switch (message.kind) {
          case 'event':
            await handle(message.event);
            position = { cursor: message.event.cursor, time: stamp(message.event.receive_time) };
            break;
          case 'heartbeat':
            // As good as an event's cursor, so a quiet consumer does not fall out of the replay window.
            position = { cursor: message.heartbeat.position, time: stamp(message.heartbeat.time) };
            break;
          case 'gap':
            await missed(message.gap);
            break;
          case 'subscribed':
            for (const { requested, state, reason } of message.subscribed.bindings) {
              if (state === 'BINDING_STATE_REFUSED') note(`${requested} is refused: ${reason}`);
            }
            if (!start.resume_after && !start.start_time) {
              position = { cursor: message.subscribed.position, time: new Date(began).toISOString() };
            }
            break;
        }
        store.save(position);
      }
    } catch (thrown) {
      if (!(thrown instanceof Ended)) throw thrown; // yours
      error = thrown.status;
    } finally {
      store.save(position, true);
    }
    if (end.signal.aborted) return;

    const reason = errorReason(error);
    // What is too large for this client would come again, for ever. gRPC's own library says so, without a reason.
    const exhausted = error.code === grpc.status.RESOURCE_EXHAUSTED;
    const tooLarge = exhausted && !reason && error.details.includes('larger than max');
    const words = reason ? `${error.details} [${reason}]` : error.details;
    const lived = Date.now() - began >= GOOD_LIFE;
    if (lived) delayBound = BACKOFF_FIRST;
    if (position && ['EPOCH_CHANGED', 'REPLAY_WINDOW_EXCEEDED', 'INVALID_CURSOR'].includes(reason)) {
      // The log is another one, as after a restart of the gateway, or does not go back so far. Ask by time for what there
      // is; a gap tells of the rest.
      note(`cannot resume: ${words}`);
      const time = Date.parse(position.time) - CLOCK_MARGIN;
      since = { seconds: Math.floor(time / 1000), nanos: (time % 1000) * 1e6 };
      position = undefined;
      continue;
    }
    if (tooLarge) throw new Error(`refused, and it would be again: ${words}`);
    // INVALID_TIME is of another gateway, whose clock is behind: that passes.
    switch (reason === 'INVALID_TIME' ? undefined : error.code) {
      case grpc.status.OUT_OF_RANGE:
      case grpc.status.INVALID_ARGUMENT:
      case grpc.status.NOT_FOUND:
      case grpc.status.UNAUTHENTICATED:
      case grpc.status.PERMISSION_DENIED:
      case grpc.status.UNIMPLEMENTED:
        throw new Error(`refused, and it would be again: ${words}`);
    }
    const leaving = ['DRAINING', 'MAX_STREAM_AGE', 'DISCONNECTED', 'CREDENTIALS_EXPIRED'].includes(reason);
    let delay;
    if ((leaving || error.code === grpc.status.ABORTED) && lived) {
      delay = Math.random() * 500; // at once, but not all consumers in the same instant
    } else {
      delay = Math.random() * delayBound;
      delayBound = Math.min(delayBound * 2, BACKOFF_LAST);
    }
    if (exhausted) delay += 30_000; // there is no room: wait long
    note(`${words}; again in ${Math.round(delay)} ms`);
    await sleep(delay, undefined, { signal: end.signal }).catch(() => {});
  }
}

// A stream has ended, with gRPC's status.
class Ended extends Error {
  constructor(status) {
    super(status.details);
    this.status = status;
  }
}

// The messages of one stream, and then `Ended`. It is dead, and ended, when nothing came for three heartbeats.
async function* stream({ server, account, bindings, heartbeat, protos }, start) {
  // A connection for each stream: after a dead one the next must not be sent down the same hole. Without a pool of its own,
  // a new client would take the old one's connection.
  const client = new (eventService(protos))(server, grpc.credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.max_receive_message_length': 64 << 20, // events of 1 MB exist, and TYPED can be larger
  });
  call = client.Subscribe({
    account_id: account,
    bindings,
    ...start,
    payload_format: 'PAYLOAD_FORMAT_TYPED',
    heartbeat_interval: { seconds: Math.floor(heartbeat), nanos: (heartbeat % 1) * 1e9 },
    client_name: 'consumer.js',
  });
  let dead = false;
  const die = () => {
    dead = true;
    call.cancel();
  };
  let watchdog = setTimeout(die, OPEN_TIMEOUT);
  try {
    for await (const message of call) {
      // Not while the message is handled: then it is us who are slow.
      clearTimeout(watchdog);
      yield message;
      watchdog = setTimeout(die, 3_000 * heartbeat);
    }
    throw new Ended({ code: grpc.status.OK, details: 'the stream ended without a status' });
  } catch (error) {
    if (!(error.metadata instanceof grpc.Metadata)) throw error; // none of gRPC's
    if (dead) error.details = 'no message, not even a heartbeat: the stream is dead';
    throw new Ended(error);
  } finally {
    clearTimeout(watchdog);
    call.cancel();
    client.close();
  }
}

let Service;
function eventService(protos) {
  const definition = () =>
    protoLoader.loadSync('hawking/v1/event_service.proto', {
      includeDirs: [protos],
      keepCase: true,
      longs: String, // a sequence may be larger than what a number holds exactly
      enums: String,
      defaults: true,
      arrays: true,
      oneofs: true, // `kind` says which message it is
    });
  return (Service ??= grpc.loadPackageDefinition(definition()).hawking.v1.EventService);
}

const { Status, ErrorInfo } = protobuf.parse(`
  syntax = "proto3";
  message Any { string typeUrl = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`).root;

// The machine's reason, such as EPOCH_CHANGED; empty for what the server did not say itself.
function errorReason(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!bytes) return '';
  const { details } = Status.decode(bytes);
  const info = details.find(({ typeUrl }) => typeUrl.endsWith('/google.rpc.ErrorInfo'));
  return info ? ErrorInfo.decode(info.value).reason : '';
}

// The position in a file: replaced as a whole, once a second at most, and at the end of each stream.
class CursorFile {
  constructor(path, account) {
    Object.assign(this, { path, account, stored: undefined, storedAt: 0 });
  }

  load() {
    let content;
    try {
      content = JSON.parse(readFileSync(this.path, 'utf8'));
    } catch (error) {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    }
    if (content.account !== this.account) {
      throw new Error(`${this.path} belongs to account ${content.account}: a cursor means nothing elsewhere`);
    }
    const colon = content.cursor.lastIndexOf(':');
    const cursor = { epoch: content.cursor.slice(0, colon), sequence: content.cursor.slice(colon + 1) };
    return (this.stored = { cursor, time: content.time });
  }

  save(position, now = false) {
    if (!position || position === this.stored || (!now && Date.now() - this.storedAt < 1_000)) return;
    const temporary = `${this.path}.tmp`;
    const file = openSync(temporary, 'w');
    writeSync(file, JSON.stringify({ account: this.account, cursor: text(position.cursor), time: position.time }));
    fsyncSync(file);
    closeSync(file);
    renameSync(temporary, this.path);
    this.stored = position;
    this.storedAt = Date.now();
  }
}

// --- The rest --------------------------------------------------------------------------------------------------------

function text({ epoch, sequence }) {
  return `${epoch}:${sequence}`;
}

// A google.protobuf.Timestamp as text; empty for none.
function stamp(timestamp) {
  if (!timestamp) return '';
  return new Date(Number(timestamp.seconds) * 1000 + timestamp.nanos / 1e6).toISOString();
}

function note(words) {
  console.error('#', words);
}

function usage() {
  console.error('usage: node consumer.js [--heartbeat SECONDS] [--protos FOLDER] HOST:PORT ACCOUNT_ID CURSOR_FILE [BINDING...]');
  process.exit(2);
}

let parsed;
try {
  parsed = parseArgs({
    allowPositionals: true,
    options: {
      heartbeat: { type: 'string', default: '10' },
      protos: { type: 'string', default: fileURLToPath(new URL('../../proto', import.meta.url)) },
    },
  });
} catch {
  usage();
}
const { values, positionals } = parsed;
const [server, account, cursorFile, ...bindings] = positionals;
if (!cursorFile) usage();
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    end.abort();
    call?.cancel();
  });
}
const options = { server, account, bindings: bindings.length ? bindings : ['call.*.*'] };
consume({ ...options, heartbeat: Number(values.heartbeat), protos: values.protos }, new CursorFile(cursorFile, account))
  .then(() => process.exit(0))
  .catch((error) => {
    console.error('error:', error.message);
    process.exit(1);
  });
