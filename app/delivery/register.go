// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// minKey is the least length in bytes of a registration key.
const minKey = 32

// A token is the scope of the client, which finds its record, and 32 bytes that
// only the registration key gives. Registering again with the same key gives the
// same token, so that an answer that was lost can be had again; the store holds
// neither the key nor the token.
func tokenSecret(key []byte, salt [16]byte, id core.ClientID) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(salt[:])
	mac.Write([]byte(id))
	return mac.Sum(nil)
}

func (s *Server) register(r *http.Request) (any, error) {
	var in registerRequest
	if err := readBody(r, maxSmallBody, &in); err != nil {
		return nil, err
	}
	if len(in.Client) == 0 || len(in.Client) > maxID {
		return nil, refuse(CodeInvalid, "a client id has 1 to %d bytes", maxID)
	}
	if len(in.Key) < minKey || len(in.Key) > maxID {
		return nil, refuse(CodeInvalid, "a registration key has %d to %d bytes", minKey, maxID)
	}
	id := core.ClientID(in.Client)
	sc := clientScope(id)
	query := one(tableClient, sc.key())
	var secret []byte
	err := s.change(r.Context(), sc, func() (core.Batch, error) {
		found, err := s.get(r.Context(), query)
		if err != nil {
			return core.Batch{}, err
		}
		if absent(found[0]) {
			record := clientRecord{id: id}
			_, _ = rand.Read(record.salt[:]) // never fails, see crypto/rand
			secret = tokenSecret(in.Key, record.salt, id)
			record.token = sha256.Sum256(secret)
			return core.Batch{
				Expect: []core.Expectation{same(query, found[0])},
				Puts:   []core.Put{put(tableClient, sc.key(), record.encode())},
			}, nil
		}
		record, err := decodeClient(found[0].Value)
		if err != nil {
			return core.Batch{}, err
		}
		secret = tokenSecret(in.Key, record.salt, id)
		if record.id != id || !record.owns(secret) {
			return core.Batch{}, refuse(CodeTaken, "this client id is registered with another key")
		}
		return core.Batch{}, nil
	})
	if err != nil {
		return nil, err
	}
	return registerAnswer{Token: base64.RawURLEncoding.EncodeToString(sc.key(secret))}, nil
}

// owns compares in constant time.
func (r clientRecord) owns(secret []byte) bool {
	sum := sha256.Sum256(secret)
	return subtle.ConstantTimeCompare(sum[:], r.token[:]) == 1
}

// authenticate finds the registered client whose token the request bears.
func (s *Server) authenticate(r *http.Request) (core.ClientID, error) {
	denied := refuse(CodeUnauthenticated, "a token of this service is needed")
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	token, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil || len(token) != len(scope{})+sha256.Size {
		return "", denied
	}
	found, err := s.get(r.Context(), one(tableClient, token[:len(scope{})]))
	if err != nil {
		return "", err
	}
	if absent(found[0]) {
		return "", denied
	}
	record, err := decodeClient(found[0].Value)
	if err != nil {
		return "", err
	}
	if !record.owns(token[len(scope{}):]) {
		return "", denied
	}
	return record.id, nil
}

// registered refuses unless all the clients are known.
func (s *Server) registered(ctx context.Context, ids [][]byte) error {
	queries := make([]core.Query, len(ids))
	for i, id := range ids {
		queries[i] = core.Query{Table: tableClient, Prefix: clientScope(core.ClientID(id)).key(), Limit: 1, KeysOnly: true}
	}
	found, err := s.get(ctx, queries...)
	if err != nil {
		return err
	}
	for i, r := range found {
		if absent(r) {
			return refuse(CodeNotFound, "client %q is not registered", ids[i])
		}
	}
	return nil
}
