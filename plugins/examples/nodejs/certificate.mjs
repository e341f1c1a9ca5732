// SPDX-License-Identifier: Apache-2.0

// A certificate for one life of the plugin: it says "localhost", is signed by its own key,
// and is the only one that the host believes. Node.js makes keys and signatures but no
// certificates, and this is all of X.509 that one takes (RFC 5280 section 4.1).

import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

// der is a value with its tag and length, which is below 65536.
function der(tag, ...parts) {
  const body = Buffer.concat(parts);
  const n = body.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
  return Buffer.concat([Buffer.of(tag, ...length), body]);
}

const sequence = (...parts) => der(0x30, ...parts);
const oid = (hex) => der(0x06, Buffer.from(hex, 'hex'));
const time = (text) => der(text.length === 13 ? 0x17 : 0x18, Buffer.from(text));

export function makeCertificate() {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ecdsaWithSHA256 = sequence(oid('2a8648ce3d040302'));
  const localhost = sequence(der(0x31, sequence(oid('550403'), der(0x0c, Buffer.from('localhost'))))); // CN
  const altName = sequence(oid('551d11'), der(0x04, sequence(der(0x82, Buffer.from('localhost')))));
  const toSign = sequence(
    der(0xa0, der(0x02, Buffer.of(2))), // version 3
    der(0x02, Buffer.of(1), randomBytes(15)), // serial number
    ecdsaWithSHA256,
    localhost, // issuer
    sequence(time('700101000000Z'), time('99991231235959Z')), // always
    localhost, // subject
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(altName)),
  );
  const signature = der(0x03, Buffer.of(0), sign('sha256', toSign, privateKey));
  return {
    certificate: sequence(toSign, ecdsaWithSHA256, signature),
    privateKey: privateKey.export({ type: 'pkcs8', format: 'pem' }),
  };
}

export const pem = (certificate) => (
  `-----BEGIN CERTIFICATE-----\n${certificate.toString('base64').replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`);
