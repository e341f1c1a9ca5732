// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// newest is the credential that we use for a suite: the newest certificate or, as long as there
// is none, the newest basic credential. Ref is 0 if there is neither.
func (m *Messenger) newest(ctx context.Context, suite core.SuiteID) (newest client.Credential, err error) {
	own, err := m.client.Credentials(ctx, client.CredentialFilter{Suite: suite})
	for _, c := range own {
		if c.Credential.Type == core.CredentialX509 || newest.Credential.Type != core.CredentialX509 {
			newest = c
		}
	}
	return newest, err
}

// kind is the type of that.
func (m *Messenger) kind(ctx context.Context, suite core.SuiteID) (core.CredentialType, error) {
	own, err := m.newest(ctx, suite)
	if own.Ref == 0 {
		return core.CredentialBasic, err // which is made when it is needed
	}
	return own.Credential.Type, err
}

// suiteOf is the suite of a conversation or, if nobody knows it, that of new ones.
func (m *Messenger) suiteOf(ctx context.Context, id core.ConversationID) core.SuiteID {
	info, err := m.client.Info(ctx, id)
	if err != nil {
		return m.suite
	}
	return info.Suite
}

// inDate says of a credential that it is a certificate that has not expired.
func inDate(c core.Credential) bool {
	cert, err := certificate(c)
	return err == nil && time.Now().Before(cert.NotAfter)
}

// certificate is that of an X.509 credential.
func certificate(c core.Credential) (*x509.Certificate, error) {
	if c.Type != core.CredentialX509 || len(c.Certificates) == 0 {
		return nil, fmt.Errorf("certificate of a credential of type %d: %w", c.Type, core.ErrNotFound)
	}
	return x509.ParseCertificate(c.Certificates[0])
}

// A Verdict says who is in a conversation.
type Verdict struct {
	State   e2ei.ConversationState
	Members []e2ei.WireIdentity // in leaf order
	// Trusting says that there is a trust anchor: without one no certificate was checked.
	Trusting bool
}

// Verify says whether the members of a conversation are who they say, by the clock of this
// machine and what is known here: no list is fetched.
func (m *Messenger) Verify(ctx context.Context, name string) (v Verdict, err error) {
	id, err := m.Find(ctx, name)
	if err != nil {
		return v, err
	}
	env, err := m.client.Environment(ctx)
	if err != nil {
		return v, err
	}
	v.Trusting = env.Ready()
	view := m.client.View(id)
	if v.State, err = view.E2EIState(ctx); err != nil {
		return v, err
	}
	ids, err := view.ClientIDs(ctx)
	if err != nil {
		return v, err
	}
	v.Members, err = view.DeviceIdentities(ctx, ids...)
	return v, err
}

// A Certificate is one of our X.509 credentials.
type Certificate struct {
	client.Credential
	Identity e2ei.WireIdentity
	Newest   bool  // of its signature scheme: the one that is used
	Err      error // it cannot be read; Identity is empty

	notBefore, notAfter time.Time
	spread              float64 // 0 to 1, of this certificate alone
}

// Certificates lists ours, oldest first.
func (m *Messenger) Certificates(ctx context.Context) (list []Certificate, err error) {
	own, err := m.client.Credentials(ctx, client.CredentialFilter{Type: core.CredentialX509})
	if err != nil {
		return nil, err
	}
	env, err := m.client.Environment(ctx)
	if err != nil {
		return nil, err
	}
	auth, _ := m.auth.(e2ei.Authenticator)
	auth.Environment = env
	for i, c := range own {
		out := Certificate{Credential: c, Newest: !slices.ContainsFunc(own[i+1:], func(later client.Credential) bool { return later.Scheme == c.Scheme })}
		cert, err := certificate(c.Credential)
		if err == nil {
			out.notBefore, out.notAfter = cert.NotBefore, cert.NotAfter
			digest := sha256.Sum256(cert.Raw)
			out.spread = float64(binary.BigEndian.Uint32(digest[:])) / (1 << 32)
			// The thumbprint, which needs the suite, is for nobody here.
			out.Identity, err = auth.Identity(e2ei.Member{Credential: c.Credential, SignatureKey: c.SignatureKey}, core.SuiteParameters{}, time.Now())
		}
		out.Err = err
		list = append(list, out)
	}
	return list, nil
}

// Due is when a certificate is to be renewed: a time before it expires (0: a third of what it
// is valid for) or up to half of that later, which is fixed for each certificate, so that
// many that were issued together are not renewed at once.
func (c Certificate) Due(within time.Duration) time.Time {
	if within <= 0 {
		within = c.notAfter.Sub(c.notBefore) / 3
	}
	return c.notAfter.Add(-within).Add(time.Duration(c.spread * float64(within) / 2))
}

// lagging lists the conversations in which our leaf has not the newest credential.
func (m *Messenger) lagging(ctx context.Context) (lag []core.ConversationID, err error) {
	ids, err := m.client.Conversations(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		does, err := m.lags(ctx, id)
		if err != nil {
			return nil, err
		}
		if does {
			lag = append(lag, id)
		}
	}
	return lag, nil
}

func (m *Messenger) lags(ctx context.Context, id core.ConversationID) (bool, error) {
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return false, err
	}
	info, err := m.client.Info(ctx, id)
	if errors.Is(err, core.ErrNotFound) || err == nil && (info.Recovering || info.ReInit != nil || n.chat(id).Leaving) {
		return false, nil // we are only about to join, or it is not for us to change
	}
	if err != nil {
		return false, err
	}
	newest, err := m.newest(ctx, info.Suite)
	if err != nil {
		return false, err
	}
	own, err := m.client.Credential(ctx, id)
	return own.Ref != newest.Ref, err
}

// Adopt takes our newest credentials into use in every conversation that has an older one of
// ours, with a commit of its own, and puts fresh key packages in the place of older ones. A
// conversation that fails does not stop the others; Adopt again. Where nothing is to be done
// it asks nobody.
func (m *Messenger) Adopt(ctx context.Context) (done []Rotation, err error) {
	stale, err := m.stale(ctx)
	if err != nil {
		return nil, err
	}
	return m.adopt(ctx, stale)
}

func (m *Messenger) adopt(ctx context.Context, packages bool) (done []Rotation, err error) {
	lag, err := m.lagging(ctx)
	if err != nil || !packages && len(lag) == 0 {
		return nil, errors.Join(err, m.retire(ctx))
	}
	// Others may have added us, and may do so by the old key packages until they are replaced.
	if done, err = m.rotateAll(ctx); err != nil {
		return done, err
	}
	if err := m.publish(ctx, true); err != nil {
		return done, err
	}
	more, err := m.rotateAll(ctx)
	for _, r := range more {
		done = append(slices.DeleteFunc(done, func(before Rotation) bool { return before.ID == r.ID }), r) // that had failed
	}
	if err != nil {
		return done, err
	}
	return done, m.retire(ctx)
}

// stale says whether there are key packages of our suite with another credential than the
// newest, which were published.
func (m *Messenger) stale(ctx context.Context) (is bool, err error) {
	newest, err := m.newest(ctx, m.suite)
	if err != nil {
		return false, err
	}
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		list, err := stored(ctx, tx)
		is = slices.ContainsFunc(list, func(k client.KeyPackage) bool { return k.Suite == m.suite && k.Credential != newest.Ref })
		return err
	})
	return is, err
}

// stored lists the key packages that are kept. One that another process is throwing away is
// no damage: the transaction is run again.
func stored(ctx context.Context, tx *client.Transaction) ([]client.KeyPackage, error) {
	list, err := tx.StoredKeyPackages(ctx)
	if errors.Is(err, core.ErrNotFound) {
		err = fmt.Errorf("%w: %w", core.ErrConflict, err)
	}
	return list, err
}

// rotateAll takes our newest credentials into use where an older one is, also in conversations
// that wait for us.
func (m *Messenger) rotateAll(ctx context.Context) (done []Rotation, err error) {
	if err := m.welcomes(ctx); err != nil && !errors.Is(err, ErrFull) {
		return nil, err
	}
	ids, err := m.lagging(ctx)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		m.progress("conversations rotated", i, len(ids))
		r := Rotation{ID: id}
		r.Epoch, r.Err = m.rotate(ctx, id)
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		done = append(done, r)
	}
	return done, nil
}

// rotate takes our newest credential into use in a conversation, unless that has come about
// by a commit that waited for its answer.
func (m *Messenger) rotate(ctx context.Context, id core.ConversationID) (epoch uint64, err error) {
	if err := m.catchUp(ctx, id); err != nil && !errors.Is(err, ErrFull) {
		return 0, err
	}
	if lags, err := m.lags(ctx, id); err != nil || !lags {
		info, infoErr := m.client.Info(ctx, id)
		return info.Epoch, errors.Join(err, infoErr)
	}
	kind, err := m.kind(ctx, m.suiteOf(ctx, id))
	if err != nil {
		return 0, err
	}
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		result, err := c.Rotate(ctx, kind)
		if err != nil {
			return err
		}
		epoch = result.Epoch
		if err := took(ctx, tx, id, result, 0); err != nil {
			return err
		}
		return edit(ctx, tx, func(n *note) { n.chat(id).Reused = false })
	})
	return epoch, halfway(epoch != 0, err)
}

// retire removes what rotations have left: key packages of old credentials, then the
// credentials with their keys, but for those that a conversation still uses. Of the
// certificates, those that can still be revoked stay.
func (m *Messenger) retire(ctx context.Context) error {
	own, err := m.client.Credentials(ctx, client.CredentialFilter{})
	if err != nil {
		return err
	}
	newest := map[core.SignatureScheme]client.Credential{}
	for _, c := range own {
		if c.Credential.Type == core.CredentialX509 || newest[c.Scheme].Credential.Type != core.CredentialX509 {
			newest[c.Scheme] = c
		}
	}
	for _, old := range own {
		if old.Ref == newest[old.Scheme].Ref {
			continue
		}
		err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			if err := tx.DeleteKeyPackagesOf(ctx, old.Ref); err != nil || inDate(old.Credential) {
				return err
			}
			return tx.RemoveCredential(ctx, old.Ref)
		})
		if err != nil && !errors.Is(err, client.ErrCredentialInUse) {
			return err
		}
	}
	return nil
}

// NotAfter is when a certificate expires; zero if it cannot be read.
func (c Certificate) NotAfter() time.Time { return c.notAfter }
