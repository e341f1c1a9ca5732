#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0

// A plugin of Conclave in Node.js, written from PROTOCOL.md and plugin.proto. It offers a
// keystore, a crypto provider and a key wrapper, with all they keep in the folder FOLDER.
//
//	npm ci && cp ../../internal/wire/plugin.proto .
//	conclave plugin test plugin.mjs --env PATH=$PATH --env FOLDER={folder}
//
// This file is what every plugin needs: how it starts and ends, and what it offers. The
// parts are in store.mjs and keys.mjs.

import { createHash } from 'node:crypto';
import { realpathSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { makeCertificate, pem } from './certificate.mjs';
import { end } from './errors.mjs';
import { cryptoProvider, keyWrapper, masterKey } from './keys.mjs';
import { Store, keystore } from './store.mjs';

const VERSIONS = [1]; // of the protocol, the highest first
const MAX_MESSAGE = (64 << 20) + (64 << 10);

const { env } = process;
if (env.CONCLAVE_PLUGIN !== 'a plugin of Conclave is started by Conclave' || !env.PLUGIN_CLIENT_CERT) {
  console.error('This is a plugin of Conclave, which starts it.');
  process.exit(1);
}

process.on('uncaughtException', (e) => end(e.stack));

// The end of standard input is the end of the host.
const socket = join(env.PLUGIN_UNIX_SOCKET_DIR, 'plugin');
process.on('exit', () => rmSync(socket, { force: true }));
process.stdin.resume().on('end', () => {
  rmSync(env.PLUGIN_UNIX_SOCKET_DIR, { recursive: true, force: true }); // the host cannot
  process.exit(1);
});

// A plugin whose host was killed a moment ago may not be at its end yet. The name (one of
// Linux, which is no file) belongs to a process, and is free when that is gone. Another user
// could take it, to no other end than that the plugin does not start.
async function alone(folder) {
  const name = `\0conclave-plugin-nodejs-${createHash('sha256').update(folder).digest('hex')}`;
  for (let tries = 0; tries < 10; tries++) {
    const lock = createServer();
    if (await new Promise((done) => {
      lock.once('listening', () => done(true)).once('error', () => done(false)).listen(name);
    })) return;
    await setTimeout(50);
  }
  end(`another process uses ${folder}`);
}

function load(file) {
  const path = join(dirname(fileURLToPath(import.meta.url)), file);
  return grpc.loadPackageDefinition(loadSync(path, { keepCase: true, longs: Number, enums: String, defaults: true }));
}

const folder = realpathSync(env.FOLDER ?? '.'); // one name for one folder
await alone(folder);
const master = masterKey(join(folder, 'master.key'));
const wrapper = keyWrapper(master);
const offers = [
  { part: 'PART_KEYSTORE' },
  { part: 'PART_CRYPTO_PROVIDER', features: ['FEATURE_DELETE_KEY'] },
  { part: 'PART_KEY_WRAPPER', wrapper_id: wrapper.id },
];

const v1 = load('plugin.proto').conclave.plugin.v1;
const server = new grpc.Server({ 'grpc.max_receive_message_length': MAX_MESSAGE });
server.addService(v1.Plugin.service, { Describe: (_, done) => done(null, { offers }) });
server.addService(v1.Keystore.service, keystore(new Store(join(folder, 'store'))));
server.addService(v1.CryptoProvider.service, cryptoProvider(new Store(join(folder, 'keys')), master));
server.addService(v1.KeyWrapper.service, wrapper.service);
server.addService(load('controller.proto').plugin.GRPCController.service, {
  Shutdown: (_, done) => {
    done(null, {});
    server.tryShutdown(() => process.exit(0));
  },
});

// A certificate of our own, for which the host needs nobody else's word; and nobody but
// the host, by its own, may connect.
const { certificate, privateKey } = makeCertificate();
const credentials = grpc.ServerCredentials.createSsl(
  Buffer.from(env.PLUGIN_CLIENT_CERT),
  [{ private_key: Buffer.from(privateKey), cert_chain: Buffer.from(pem(certificate)) }],
  true,
);
server.bindAsync(`unix:${socket}`, credentials, (err) => {
  if (err) throw err;
  const hosts = env.PLUGIN_PROTOCOL_VERSIONS.split(',').map(Number);
  const version = VERSIONS.find((v) => hosts.includes(v)) ?? VERSIONS[0];
  const base64 = certificate.toString('base64').replaceAll('=', '');
  process.stdout.write(`1|${version}|unix|${socket}|grpc|${base64}\n`);
});
