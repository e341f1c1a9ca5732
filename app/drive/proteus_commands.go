// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"

	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
)

// proteus runs a command on Proteus in a transaction. What it gives is shown when that is
// durable.
func (i *instance) proteus(ctx context.Context, f func(ctx context.Context, p client.Proteus) error) error {
	return i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error { return f(ctx, tx.Proteus()) })
}

// session is the name that the request gives.
func (r *request) session() (string, error) {
	if r.Session == "" {
		return "", bad("session: string expected")
	}
	return r.Session, nil
}

func proteusInit(ctx context.Context, i *instance, _ *request) (result, error) {
	var fingerprint string
	err := i.proteus(ctx, func(ctx context.Context, p client.Proteus) (err error) {
		if err = p.Init(ctx); err == nil {
			fingerprint, err = p.Fingerprint(ctx)
		}
		return err
	})
	return result{"fingerprint": fingerprint}, err
}

// maxPreKeys is how many prekeys a request can ask for.
const maxPreKeys = 1000

func proteusPrekey(ctx context.Context, i *instance, r *request) (result, error) {
	n, err := upTo("n", r.N, 1, maxPreKeys)
	if err != nil {
		return nil, err
	}
	first, err := upTo("prekeyId", r.PreKeyID, 1, proteus.LastResortPreKeyID)
	if err != nil {
		return nil, err
	}
	if n == 0 || first+n > proteus.LastResortPreKeyID+1 {
		return nil, bad("n: %d prekeys from %d", n, first)
	}
	var list []result
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		list = nil
		for id := first; id < first+n; id++ {
			bundle, err := p.NewPreKey(ctx, uint16(id))
			if err != nil {
				return err
			}
			list = append(list, result{"id": id, "prekey": bundle})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return result{"prekey": list[0]["prekey"], "prekeys": list}, nil
}

func proteusPrekeyAuto(ctx context.Context, i *instance, _ *request) (out result, err error) {
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		id, bundle, err := p.NewPreKeyAuto(ctx)
		out = result{"prekeyId": id, "prekey": bundle}
		return err
	})
	return out, err
}

func proteusLastResortPrekey(ctx context.Context, i *instance, _ *request) (out result, err error) {
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		bundle, err := p.LastResortPreKey(ctx)
		out = result{"prekeyId": proteus.LastResortPreKeyID, "prekey": bundle}
		return err
	})
	return out, err
}

func proteusSessionFromPrekey(ctx context.Context, i *instance, r *request) (result, error) {
	name, err := r.session()
	if err != nil {
		return nil, err
	}
	bundle, err := need("prekey", r.PreKey)
	if err != nil {
		return nil, err
	}
	return nil, i.proteus(ctx, func(ctx context.Context, p client.Proteus) error { return p.SessionFromPreKey(ctx, name, bundle) })
}

// A proteusReader is one of the three ways to read a message.
type proteusReader func(p client.Proteus, ctx context.Context, name string, message []byte) ([]byte, error)

// readProteus is the command for it.
func readProteus(read proteusReader) func(context.Context, *instance, *request) (result, error) {
	return func(ctx context.Context, i *instance, r *request) (out result, err error) {
		name, err := r.session()
		if err != nil {
			return nil, err
		}
		message, err := need("message", r.Message)
		if err != nil {
			return nil, err
		}
		err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
			plaintext, err := read(p, ctx, name, message)
			out = result{"plaintext": append([]byte{}, plaintext...)} // empty, not absent
			return err
		})
		return out, err
	}
}

func proteusEncrypt(ctx context.Context, i *instance, r *request) (out result, err error) {
	name, err := r.session()
	if err != nil {
		return nil, err
	}
	plaintext, err := need("plaintext", r.Plaintext)
	if err != nil {
		return nil, err
	}
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		message, err := p.Encrypt(ctx, name, plaintext)
		out = result{"message": message}
		return err
	})
	return out, err
}

func proteusEncryptBatched(ctx context.Context, i *instance, r *request) (out result, err error) {
	if r.Sessions == nil {
		return nil, bad("sessions: list of strings expected")
	}
	for _, name := range r.Sessions {
		if name == "" {
			return nil, bad("sessions: list of strings expected")
		}
	}
	plaintext, err := need("plaintext", r.Plaintext)
	if err != nil {
		return nil, err
	}
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		messages, err := p.EncryptBatched(ctx, r.Sessions, plaintext)
		out = result{"messages": messages}
		return err
	})
	return out, err
}

func proteusFingerprint(ctx context.Context, i *instance, r *request) (out result, err error) {
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		ours, err := p.Fingerprint(ctx)
		if out = (result{"fingerprint": ours}); err != nil || r.Session == "" {
			return err
		}
		out["local"], out["remote"], err = p.Fingerprints(ctx, r.Session)
		return err
	})
	return out, err
}

func proteusSessionExists(ctx context.Context, i *instance, r *request) (out result, err error) {
	name, err := r.session()
	if err != nil {
		return nil, err
	}
	err = i.proteus(ctx, func(ctx context.Context, p client.Proteus) error {
		exists, err := p.Exists(ctx, name)
		out = result{"exists": exists}
		return err
	})
	return out, err
}

func proteusSessionDelete(ctx context.Context, i *instance, r *request) (result, error) {
	name, err := r.session()
	if err != nil {
		return nil, err
	}
	return nil, i.proteus(ctx, func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, name) })
}

// proteusSessionSave has nothing to do: what a transaction has changed is stored with it.
func proteusSessionSave(_ context.Context, _ *instance, r *request) (result, error) {
	_, err := r.session()
	return nil, err
}
