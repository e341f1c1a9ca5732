// SPDX-License-Identifier: Apache-2.0

// A keystore in one file: a log of batches, of which all records are in memory. A batch
// is there when its whole entry is; of the last one, if a crash has cut it short, nothing is.

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync, closeSync, fdatasyncSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, renameSync, rmSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import { Refusal, end, log, named, refused } from './errors.mjs';

const HEAD = 40; // of an entry: the length of its body, the SHA-256 of that, and of these a part of their own
const MAX_ANSWER = 64 << 20; // bytes of keys and values
const PIECE = 1 << 20; // how much of an answer goes into one message
const GARBAGE = 16 << 20; // how much longer the file may be than twice its records

const sha256 = (bytes) => createHash('sha256').update(bytes).digest();

const nothing = Buffer.alloc(0);
const absent = Buffer.alloc(16);

// name is a key as a string, which compare as the bytes do.
const name = (key) => key.toString('latin1');

// first is the place of the first of a sorted list for which a condition holds.
function first(list, holds) {
  let from = 0;
  for (let to = list.length; from < to;) {
    const middle = (from + to) >> 1;
    if (holds(list[middle])) to = middle;
    else from = middle + 1;
  }
  return from;
}

// append writes an entry, and gives its length.
function append(file, change) {
  const body = serialize(change);
  const head = Buffer.concat([Buffer.alloc(4), sha256(body)]);
  head.writeUInt32BE(body.length);
  appendFileSync(file, Buffer.concat([head, sha256(head).subarray(0, 4), body]));
  return HEAD + body.length;
}

export function syncFolder(path) {
  const folder = openSync(path);
  fsyncSync(folder);
  closeSync(folder);
}

// orEnd does something that must not fail: if it does, nobody knows what is in the file. The
// next start of the plugin will look, and until then the host has no answer.
function orEnd(f) {
  try {
    f();
  } catch (e) {
    end(e.stack);
  }
}

class Table {
  names = []; // sorted
  records = new Map(); // by name

  // range is what has a prefix: from one place among the names up to another.
  range(prefix) {
    const p = name(prefix);
    const from = first(this.names, (n) => n >= p);
    return [from, first(this.names, (n) => n >= p && !n.startsWith(p))];
  }
}

export class Store {
  #tables = Array.from({ length: 256 }, () => new Table());
  #path;
  #file;
  #size; // of the file
  #longest; // that the file may become before it is written anew
  #damage; // what is wrong with the file, of which then nothing is used

  constructor(path) {
    this.#path = path;
    this.#file = openSync(path, 'a+', 0o600);
    const size = fstatSync(this.#file).size;
    let at = 0;
    try {
      for (let body; (body = this.#entry(at, size)); at += HEAD + body.length) this.#change(deserialize(body));
    } catch (e) {
      this.#damage = new Refusal('DAMAGED', `${path}, the entry at byte ${at}: ${e.message}`);
      return;
    }
    if (at < size) ftruncateSync(this.#file, at); // its batch was never answered
    this.#size = at;
    syncFolder(dirname(path)); // the file may be new
    this.#rewrite();
  }

  // entry is the body of the one that begins at a place, nothing if it is not whole.
  #entry(at, size) {
    const bytes = (n) => {
      if (at + n > size) return undefined;
      const b = Buffer.alloc(n);
      for (let got = 0; got < n;) got += readSync(this.#file, b, got, n - got, at + got);
      at += n;
      return b;
    };
    const head = bytes(HEAD);
    if (!head) return undefined;
    // What a loss of power can leave of an entry besides: its size, and zeros.
    if (!head.some(Boolean) && !bytes(size - at).some(Boolean)) return undefined;
    if (!sha256(head.subarray(0, 36)).subarray(0, 4).equals(head.subarray(36))) throw new Error('its head is another');
    const body = bytes(head.readUInt32BE());
    if (!body || sha256(body).equals(head.subarray(4, 36))) return body;
    if (at < size) throw new Error('its body is another');
  }

  // rewrite leaves out what was overwritten and deleted. Where it fails, as on a disk that is
  // full, the file stays as it is.
  #rewrite() {
    this.#longest = 2 * this.#size + GARBAGE;
    const name = `${this.#path}.new`;
    let fresh;
    let size = 0;
    try {
      rmSync(name, { force: true });
      fresh = openSync(name, 'a+', 0o600);
      this.#tables.forEach((t, table) => {
        for (const r of t.records.values()) size += append(fresh, { dels: [], puts: [{ table, ...r }] });
      });
      fdatasyncSync(fresh);
      renameSync(name, this.#path);
    } catch (e) {
      log('WARN', `${this.#path} is not written anew: ${e.message}`);
      if (fresh !== undefined) {
        closeSync(fresh);
        rmSync(name, { force: true });
      }
      return;
    }
    closeSync(this.#file);
    [this.#file, this.#size, this.#longest] = [fresh, size, 2 * size + GARBAGE];
    orEnd(() => syncFolder(dirname(this.#path)));
  }

  // read answers from one state: nothing else runs until it returns, and what it returns
  // is never changed.
  read(queries) {
    if (this.#damage) throw this.#damage;
    const records = [];
    let size = 0;
    queries.forEach((q, query) => {
      const t = this.#tables[q.table];
      let [from, to] = t.range(q.prefix);
      const after = name(q.after);
      if (after) from = Math.max(from, first(t.names, (n) => n > after));
      if (q.limit) to = Math.min(to, from + q.limit);
      for (; from < to; from++) {
        const r = t.records.get(t.names[from]);
        const value = q.keys_only ? nothing : r.value;
        size += r.key.length + value.length;
        if (size > MAX_ANSWER) throw new Refusal('TOO_LARGE', 'the answer is too large');
        records.push({ query, key: r.key, value, version: r.version });
      }
    });
    return records;
  }

  // apply returns when the batch is on the disk, and shows it to readers only then. It
  // holds up everything else meanwhile, which costs nothing but time.
  apply({ expect, dels, puts }) {
    if (this.#damage) throw this.#damage;
    for (const e of expect) {
      const version = this.#tables[e.table].records.get(name(e.key))?.version ?? absent;
      if (!version.equals(e.version)) throw new Refusal('CONFLICT', 'a record has another version than expected');
    }
    try {
      this.#size += append(this.#file, { dels, puts });
    } catch (e) { // a full disk: half of an entry is undone
      orEnd(() => ftruncateSync(this.#file, this.#size));
      throw new Refusal('UNAVAILABLE', e.message);
    }
    orEnd(() => fdatasyncSync(this.#file));
    this.#change({ dels, puts });
    if (this.#size > this.#longest) this.#rewrite();
  }

  #change({ dels, puts }) {
    for (const d of dels) {
      const t = this.#tables[d.table];
      const [from, to] = t.range(d.prefix);
      for (const n of t.names.splice(from, to - from)) t.records.delete(n);
    }
    for (const p of puts) {
      const t = this.#tables[p.table];
      const n = name(p.key);
      if (!t.records.has(n)) t.names.splice(first(t.names, (other) => other > n), 0, n);
      // Copied: what was received is a part of a larger message.
      t.records.set(n, { key: Buffer.from(p.key), value: Buffer.from(p.value), version: Buffer.from(p.version) });
    }
  }
}

// whole gathers the messages of a stream up to the last; nothing if it ends before.
async function whole(call, add) {
  let last = false;
  call.on('data', (m) => {
    add(m);
    last = m.last;
  });
  await once(call, 'end');
  return last;
}

const ABORTED = { code: 10, details: 'the stream ended before its last message' };

// keystore is the service of a store.
export function keystore(store) {
  return {
    async Read(call) {
      const queries = [];
      let instance = '';
      if (!await whole(call, (m) => {
        instance = m.instance;
        for (const q of m.queries) queries.push(q);
      })) return call.emit('error', ABORTED);
      try {
        named(instance);
        let piece = [];
        let size = 0;
        for (const r of store.read(queries)) {
          piece.push(r);
          size += 64 + r.key.length + r.value.length;
          if (size < PIECE) continue;
          if (!call.write({ records: piece })) await Promise.race([once(call, 'drain'), once(call, 'cancelled')]);
          [piece, size] = [[], 0];
        }
        call.write({ records: piece });
      } catch (e) {
        if (!(e instanceof Refusal)) throw e;
        call.write({ error: refused(e) });
      }
      call.end();
    },

    async Apply(call, done) {
      const batch = { expect: [], dels: [], puts: [] };
      let instance = '';
      if (!await whole(call, (m) => {
        instance = m.instance;
        for (const part in batch) for (const x of m[part]) batch[part].push(x);
      })) return done(ABORTED);
      try {
        named(instance);
        store.apply(batch);
        done(null, {});
      } catch (e) {
        if (!(e instanceof Refusal)) throw e;
        done(null, { error: refused(e) });
      }
    },
  };
}
