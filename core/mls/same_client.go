// SPDX-License-Identifier: Apache-2.0

package mls

import "github.com/conclave-mls/conclave/core"

// Which leaves are one client's (PRP-3, EXT-2). Equal credentials are, and of two
// basic ones those of one identity. All others the Authenticator reads: two
// certificate chains can name one client.

// operation returns the Env of one operation, in which the Authenticator is asked
// but once about each leaf.
func (e *Env) operation() *Env {
	o := *e
	o.identities = map[*LeafNode]core.Identity{}
	return &o
}

// validate asks the Authenticator about a leaf.
func (e *Env) validate(n *LeafNode, p core.Purpose) (core.Identity, error) {
	id, err := e.Auth.Validate(n.Credential, n.SignatureKey, e.Now, p)
	if err == nil && e.identities != nil {
		e.identities[n] = id
	}
	return id, err
}

// identity reads whose a leaf is, unless that is known.
func (e *Env) identity(n *LeafNode) (core.Identity, error) {
	if id, ok := e.identities[n]; ok {
		return id, nil
	}
	return e.validate(n, core.PurposeIdentify)
}

// A clientSet holds the clients of some leaves. It reads no identity while all
// credentials are basic.
type clientSet struct {
	env         *Env
	credentials map[string]bool
	basic, rest identitySet
}

type identitySet struct {
	unread []*LeafNode
	known  map[core.Identity]bool
}

func newClientSet(env *Env) *clientSet {
	return &clientSet{env: env, credentials: map[string]bool{}}
}

func isBasic(n *LeafNode) bool { return n.Credential.Type == core.CredentialBasic }

func (s *clientSet) add(n *LeafNode) {
	s.credentials[string(MarshalCredential(n.Credential))] = true
	if isBasic(n) {
		s.basic.unread = append(s.basic.unread, n)
	} else {
		s.rest.unread = append(s.rest.unread, n)
	}
}

// has reports whether the client of a leaf is in the set.
func (s *clientSet) has(n *LeafNode) (bool, error) {
	if s.credentials[string(MarshalCredential(n.Credential))] {
		return true, nil
	}
	if found, err := s.rest.has(s.env, n); found || err != nil || isBasic(n) {
		return found, err
	}
	return s.basic.has(s.env, n)
}

func (s *identitySet) has(env *Env, n *LeafNode) (bool, error) {
	for len(s.unread) > 0 {
		id, err := env.identity(s.unread[0])
		if err != nil {
			return false, err
		}
		if s.known == nil {
			s.known = map[core.Identity]bool{}
		}
		s.known[id] = true
		s.unread = s.unread[1:]
	}
	if len(s.known) == 0 {
		return false, nil
	}
	id, err := env.identity(n)
	return s.known[id], err
}

// checkNotIn refuses a leaf whose client is at another place of the tree already.
func checkNotIn(env *Env, t *tree, leaf *LeafNode, own LeafIndex) error {
	joining := newClientSet(env)
	joining.add(leaf)
	for i, n := range t.leaves() {
		if i == own {
			continue
		}
		if found, err := joining.has(n); err != nil {
			return err
		} else if found {
			return breach("PRP-3", "the joining client is at leaf %d already", i)
		}
	}
	return nil
}
