// SPDX-License-Identifier: Apache-2.0

package proteus

import "encoding/hex"

// A Tag names a state of a session: 16 random bytes of who opened it.
type Tag [16]byte

func (t Tag) String() string { return hex.EncodeToString(t[:]) }

// The types of messages.
const (
	typeCipherMessage = 1
	typePreKeyMessage = 2
)

// A cipherMessage is what a state of a session sends.
type cipherMessage struct {
	tag        Tag
	counter    uint32
	previous   uint32 // counters of the chain before; nobody uses it
	ratchet    PublicKey
	ciphertext []byte
}

// A pendingPreKey is what goes with each message until the first answer.
type pendingPreKey struct {
	id   uint16
	base PublicKey
}

// A preKeyMessage opens a session, and may be the first of several that do.
type preKeyMessage struct {
	pendingPreKey
	identity PublicKey
}

// An envelope is a message as it is sent.
type envelope struct {
	mac     [32]byte
	message []byte         // type and body, which the MAC covers
	preKey  *preKeyMessage // nil: a cipher message alone
	cipher  cipherMessage
}

// newMessage encodes what the MAC covers.
func newMessage(pending *pendingPreKey, identity PublicKey, m *cipherMessage) []byte {
	b := make([]byte, 0, 192+len(m.ciphertext))
	if pending == nil {
		return m.append(append(b, typeCipherMessage))
	}
	b = appendUint(append(appendMap(append(b, typePreKeyMessage), 4), 0), uint64(pending.id))
	b = appendWrapped(append(b, 1), pending.base[:])
	b = identity.appendIdentity(append(b, 2))
	return m.append(append(b, 3))
}

func (m *cipherMessage) append(b []byte) []byte {
	b = appendBytes(append(appendMap(b, 5), 0), m.tag[:])
	b = appendUint(append(b, 1), uint64(m.counter))
	b = appendUint(append(b, 2), uint64(m.previous))
	b = appendWrapped(append(b, 3), m.ratchet[:])
	return appendBytes(append(b, 4), m.ciphertext)
}

func newEnvelope(mac, message []byte) []byte {
	b := make([]byte, 0, 64+len(message))
	b = appendUint(append(appendMap(b, 3), 0), version)
	b = appendWrapped(append(b, 1), mac)
	return appendBytes(append(b, 2), message)
}

// parseEnvelope reads an envelope and the message in it, which share memory with data.
func parseEnvelope(data []byte) (*envelope, error) {
	r, e := &reader{rest: data}, new(envelope)
	r.fields([]uint64{0, 1, 2}, func(key uint64) bool {
		switch key {
		case 0:
			r.uint(1)
		case 1:
			r.wrapped(e.mac[:])
		case 2:
			e.message = r.bytes()
		default:
			return false
		}
		return true
	})
	if err := r.end("envelope"); err != nil {
		return nil, err
	}
	r = &reader{rest: e.message}
	switch kind := r.uint(1); {
	case r.err != nil:
	case kind == typeCipherMessage:
		e.cipher = r.cipherMessage()
	case kind == typePreKeyMessage:
		e.preKey, e.cipher = r.preKeyMessage()
	default:
		r.fail(CodeMessageType, "type %d", kind)
	}
	if err := r.end("message"); err != nil {
		return nil, err
	}
	return e, nil
}

// refused is why a message is refused: a bad key comes before all else, as where keys are
// examined while they are decoded. Here that waits for a refusal, or for the key's use: it
// would take longer than all else about a message.
func (e *envelope) refused(err error) error {
	if CodeOf(err) == 0 {
		return err
	}
	keys := []PublicKey{e.cipher.ratchet}
	if e.preKey != nil {
		keys = append(keys, e.preKey.base, e.preKey.identity)
	}
	for _, k := range keys {
		if _, bad := k.point(); bad != nil {
			return bad
		}
	}
	return err
}

func (r *reader) preKeyMessage() (p *preKeyMessage, m cipherMessage) {
	p = new(preKeyMessage)
	r.fields([]uint64{0, 1, 2, 3}, func(key uint64) bool {
		switch key {
		case 0:
			p.id = uint16(r.uint(2))
		case 1:
			p.base = r.public()
		case 2:
			p.identity = r.identity()
		case 3:
			m = r.cipherMessage()
		default:
			return false
		}
		return true
	})
	return p, m
}

func (r *reader) cipherMessage() (m cipherMessage) {
	r.fields([]uint64{0, 1, 2, 3, 4}, func(key uint64) bool {
		switch key {
		case 0:
			r.fixed(m.tag[:])
		case 1:
			m.counter = uint32(r.uint(4))
		case 2:
			m.previous = uint32(r.uint(4))
		case 3:
			m.ratchet = r.public()
		case 4:
			m.ciphertext = r.bytes()
		default:
			return false
		}
		return true
	})
	return m
}
