// SPDX-License-Identifier: Apache-2.0

// Keys for signatures that stay in this process, and the wrapping of a store's data key.
// Both hang on one master key, which a real plugin would not have in a file.

import {
  createCipheriv, createDecipheriv, createPrivateKey, createPublicKey, generateKeyPairSync, hkdfSync, randomBytes, sign,
} from 'node:crypto';
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { Refusal, unary } from './errors.mjs';
import { syncFolder } from './store.mjs';

const SIGN = 1; // KeySpec.use

// masterKey reads the key of a file, which it makes if there is none: it is there whole
// before anything depends on it.
export function masterKey(path) {
  if (!existsSync(path)) {
    const file = openSync(`${path}.new`, 'w', 0o600);
    writeSync(file, randomBytes(32));
    fsyncSync(file);
    closeSync(file);
    renameSync(`${path}.new`, path);
    syncFolder(dirname(path));
  }
  const key = readFileSync(path);
  if (key.length !== 32) throw new Error(`${path} has no 32 bytes`);
  return key;
}

const derive = (master, purpose, length) => Buffer.from(hkdfSync('sha256', master, '', `conclave-plugin-nodejs ${purpose}`, length));

// A Box seals with AES-256-GCM: nonce, ciphertext, tag.
class Box {
  #key;

  constructor(key) {
    this.#key = key;
  }

  seal(plain, aad) {
    const nonce = randomBytes(12);
    const c = createCipheriv('aes-256-gcm', this.#key, nonce).setAAD(aad);
    return Buffer.concat([nonce, c.update(plain), c.final(), c.getAuthTag()]);
  }

  open(blob, aad) {
    try {
      const c = createDecipheriv('aes-256-gcm', this.#key, blob.subarray(0, 12), { authTagLength: 16 });
      c.setAAD(aad).setAuthTag(blob.subarray(-16));
      return Buffer.concat([c.update(blob.subarray(12, -16)), c.final()]);
    } catch {
      throw new Refusal('WRONG_KEY', 'wrapped with another key, or changed');
    }
  }
}

// keyWrapper is the service of a wrapper, and the ID of its key.
export function keyWrapper(master) {
  const box = new Box(derive(master, 'wrap', 32));
  return {
    id: `nodejs:${derive(master, 'id', 8).toString('hex')}`,
    service: {
      Wrap: unary((m) => ({ bytes: box.seal(m.dek, m.aad) })),
      Unwrap: unary((m) => ({ bytes: box.open(m.blob, m.aad) })),
    },
  };
}

const make = {
  Ed25519: () => generateKeyPairSync('ed25519'),
  'ECDSA-P256': () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
};

// publicBytes is a public key as MLS encodes it: raw, or a point without compression.
function publicBytes(key) {
  const { x, y } = createPublicKey(key).export({ format: 'jwk' });
  const bytes = Buffer.from(x, 'base64url');
  return y ? Buffer.concat([Buffer.of(4), bytes, Buffer.from(y, 'base64url')]) : bytes;
}

// cryptoProvider is the service of a provider that keeps its keys, sealed, in a store:
// the reference of a key is the ID that the host chose for it.
export function cryptoProvider(store, master) {
  const box = new Box(derive(master, 'keys', 32));

  const find = (id) => {
    const [record] = store.read([{ table: 0, prefix: id, after: Buffer.alloc(0) }]);
    if (!record) return undefined;
    const { algorithm, pkcs8 } = JSON.parse(box.open(record.value, id));
    return { algorithm, key: createPrivateKey({ key: pkcs8, format: 'pem' }) };
  };
  const idOf = (ref) => {
    if (!/^[0-9a-f]{32}$/.test(ref)) throw new Refusal('DENIED', 'that is no reference of this plugin');
    return Buffer.from(ref, 'hex');
  };
  const open = (ref) => {
    const found = find(idOf(ref));
    if (!found) throw new Refusal('NOT_FOUND', `there is no key ${ref}`);
    return found;
  };
  const answer = (ref, { algorithm, key }) => (
    { key: { ref, algorithm, public: publicBytes(key), ability: 'ABILITY_SIGN' } });

  return {
    Algorithms: unary(() => ({ algorithms: Object.keys(make) })),

    GenerateKey: unary(({ spec: { id, algorithm, use } }) => {
      if (!Object.hasOwn(make, algorithm) || use !== SIGN) {
        throw new Refusal('UNSUPPORTED', `no ${algorithm} key for use ${use}`);
      }
      const ref = id.toString('hex');
      const there = find(id);
      if (there && there.algorithm !== algorithm) throw new Refusal('CONFLICT', `key ${ref} is of another algorithm`);
      if (there) return answer(ref, there); // asked again, perhaps after a crash
      const key = make[algorithm]().privateKey;
      const value = box.seal(JSON.stringify({ algorithm, pkcs8: key.export({ type: 'pkcs8', format: 'pem' }) }), id);
      store.apply({ expect: [], dels: [], puts: [{ table: 0, key: id, value, version: randomBytes(16) }] });
      return answer(ref, { algorithm, key });
    }),

    OpenKey: unary(({ ref }) => answer(ref, open(ref))),

    Sign: unary(({ ref, input }) => {
      const { algorithm, key } = open(ref);
      return { bytes: sign(algorithm === 'Ed25519' ? null : 'sha256', input, key) };
    }),

    DeleteKey: unary(({ ref }) => {
      store.apply({ expect: [], dels: [{ table: 0, prefix: idOf(ref) }], puts: [] });
      return {};
    }),
  };
}
