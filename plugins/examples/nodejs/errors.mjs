// SPDX-License-Identifier: Apache-2.0

// log writes a record for the host's log.
export function log(level, msg) {
  console.error(JSON.stringify({ level, msg }));
}

// end is how this program ends itself; the next one may find things in order.
export function end(msg) {
  log('ERROR', msg);
  process.exit(1);
}

// A Refusal is an answer of a part that says no, with the code that tells the host what
// to do next. Anything else that is thrown is a fault of this program.
export class Refusal extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

// unary makes a handler of gRPC of a function that returns the answer, or throws. A fault
// is a status of gRPC: the host takes it as "unavailable", and may try again.
export function unary(answer) {
  return (call, done) => {
    try {
      named(call.request.instance);
      done(null, answer(call.request));
    } catch (e) {
      if (e instanceof Refusal) {
        done(null, { error: refused(e) });
      } else {
        log('ERROR', e.stack);
        done({ code: 13, details: 'a fault of the plugin: see its log' }); // INTERNAL
      }
    }
  };
}

// named refuses every instance but the unnamed one, as no other is offered.
export function named(instance) {
  if (instance !== '') throw new Refusal('NOT_FOUND', 'there is the unnamed instance only');
}

export function refused(e) {
  return { codes: [`ERROR_CODE_${e.code}`], text: e.message };
}
