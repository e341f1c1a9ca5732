// SPDX-License-Identifier: Apache-2.0
//
// npm's @wireapp/proteus as a process: a request a line on stdin, a reply a line on stdout, in
// the form and with the names of the driver of Core Crypto, so that a test can speak with
// either. Bytes are base64.
//
// "inst" names a device. A device has what a client would have on disk, all serialised: its
// identity, its prekeys and its sessions. Beside them are the sessions as they are in
// memory. "close" forgets a device and gives what was on disk, from which "init" makes it
// again: a restart, or a device that moves.
import fs from "node:fs";
import readline from "node:readline";
import proteus from "@wireapp/proteus";

const { IdentityKeyPair, PreKey, PreKeyBundle } = proteus.keys;
const { Envelope } = proteus.message;
const { PreKeyStore, Session } = proteus.session;

const write = (buffer) => Buffer.from(buffer).toString("base64");
const read = (text) => {
  if (typeof text !== "string") throw refusal("BadRequest", "bytes in base64 are missing");
  return Uint8Array.from(Buffer.from(text, "base64")).buffer;
};
const refusal = (kind, message, code) => Object.assign(new Error(message), { kind, code });

// The prekeys are on disk alone: the library overwrites one that it has used.
class PreKeys extends PreKeyStore {
  stored = {};

  async load_prekey(id) {
    return this.stored[id] && PreKey.deserialise(read(this.stored[id]));
  }

  async delete_prekey(id) {
    delete this.stored[id];
    return id;
  }

  bundle(device, key) {
    this.stored[key.key_id] = write(key.serialise());
    return { prekeyId: key.key_id, prekey: write(new PreKeyBundle(device.identity.public_key, key).serialise()) };
  }
}

class Device {
  preKeys = new PreKeys();
  sessions = {}; // on disk
  live = new Map();

  constructor(store) {
    this.identity = store ? IdentityKeyPair.deserialise(read(store.identity)) : new IdentityKeyPair();
    if (store) {
      this.preKeys.stored = { ...store.prekeys };
      this.sessions = { ...store.sessions };
    }
  }

  session(name) {
    if (!this.live.has(name)) {
      if (!this.sessions[name]) throw refusal("SessionNotFound", `no session ${name}`, 102);
      this.live.set(name, Session.deserialise(this.identity, read(this.sessions[name])));
    }
    return this.live.get(name);
  }

  save(name, session) {
    this.live.set(name, session);
    this.sessions[name] = write(session.serialise());
  }
}

const devices = new Map();
const device = (r) => {
  if (!devices.has(r.inst)) throw refusal("BadRequest", `no device ${r.inst}`);
  return devices.get(r.inst);
};

const commands = {
  init(r) {
    devices.set(r.inst, new Device(r.store));
  },
  close(r) {
    const d = device(r);
    devices.delete(r.inst);
    return { store: { identity: write(d.identity.serialise()), prekeys: d.preKeys.stored, sessions: d.sessions } };
  },
  proteusPrekeyAuto(r) {
    const d = device(r);
    let id = 1;
    while (d.preKeys.stored[id]) id++;
    return d.preKeys.bundle(d, new PreKey(id));
  },
  async proteusLastResortPrekey(r) {
    const d = device(r);
    return d.preKeys.bundle(d, (await d.preKeys.load_prekey(PreKey.MAX_PREKEY_ID)) ?? PreKey.last_resort());
  },
  proteusSessionFromPrekey(r) {
    const d = device(r);
    d.save(r.session, Session.init_from_prekey(d.identity, PreKeyBundle.deserialise(read(r.prekey))));
  },
  async proteusSessionFromMessage(r) {
    const d = device(r);
    const [session, plaintext] = await Session.init_from_message(d.identity, d.preKeys, Envelope.deserialise(read(r.message)));
    d.save(r.session, session);
    return { plaintext: write(plaintext) };
  },
  proteusEncrypt(r) {
    return { message: commands.proteusEncryptBatched({ ...r, sessions: [r.session] }).messages[r.session] };
  },
  // A session that is named again encrypts again; its last message is in the reply.
  proteusEncryptBatched(r) {
    const d = device(r);
    const messages = {};
    const plaintext = new Uint8Array(read(r.plaintext));
    for (const name of r.sessions) messages[name] = Session.encrypt(d.session(name), plaintext);
    for (const name in messages) {
      d.save(name, d.session(name));
      messages[name] = write(messages[name].serialise());
    }
    return { messages };
  },
  async proteusDecrypt(r) {
    const d = device(r);
    const session = d.session(r.session);
    const plaintext = await session.decrypt(d.preKeys, Envelope.deserialise(read(r.message)));
    d.save(r.session, session);
    return { plaintext: write(plaintext) };
  },
  proteusSessionDelete(r) {
    const d = device(r);
    d.live.delete(r.session);
    delete d.sessions[r.session];
  },
  proteusFingerprint(r) {
    const d = device(r);
    const fingerprint = d.identity.public_key.fingerprint();
    if (!r.session) return { fingerprint };
    const session = d.session(r.session);
    return { fingerprint, local: session.get_local_identity().fingerprint(), remote: session.remote_identity.fingerprint() };
  },
};

async function answer(line) {
  const r = JSON.parse(line);
  try {
    if (!Object.hasOwn(commands, r.cmd)) throw refusal("BadRequest", `no command ${r.cmd}`);
    return { id: r.id, ok: true, result: (await commands[r.cmd](r)) ?? {} };
  } catch (e) {
    const error = { kind: e.kind ?? e.constructor.name, message: String(e.message) };
    if (e.code !== undefined) error.detail = { errorCode: e.code };
    return { id: r.id, ok: false, error };
  }
}

const send = (reply) => process.stdout.write(JSON.stringify(reply) + "\n");

await proteus.init();
const installed = new URL("node_modules/@wireapp/proteus/package.json", import.meta.url);
send({ ready: true, version: JSON.parse(fs.readFileSync(installed)).version });
for await (const line of readline.createInterface({ input: process.stdin })) send(await answer(line));
