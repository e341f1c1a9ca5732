// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// seed adds messages.
func seed(f *testing.F, all ...proto.Message) {
	f.Helper()
	for _, m := range all {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// Whatever a plugin answers to a read, what is taken of it is an answer to what was asked.
func FuzzGathering(f *testing.F) {
	id := bytes.Repeat([]byte{1}, 16)
	seed(f, &wire.ReadResponse{Records: []*wire.Record{
		{Key: []byte("abc"), Value: []byte("v"), Version: id}, {Query: 1, Key: []byte("x"), Version: id}, {Query: 2, Key: []byte("y"), Value: []byte("v"), Version: id},
	}}, &wire.ReadResponse{Records: []*wire.Record{{Query: 1 << 31, Key: []byte("abc"), Version: id}}})
	queries := []core.Query{
		{Table: 1, Prefix: []byte("a"), After: []byte("ab"), Limit: 2}, {Table: 1, KeysOnly: true}, {Table: 1},
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m wire.ReadResponse
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		g := gathering{queries: queries, answers: make([][]core.Record, len(queries))}
		for _, r := range m.GetRecords() {
			if g.add(r) != nil {
				break
			}
		}
		for i, q := range queries {
			last := q.After
			if q.Limit > 0 && len(g.answers[i]) > q.Limit {
				t.Errorf("query %d: %d records", i, len(g.answers[i]))
			}
			for _, r := range g.answers[i] {
				if !bytes.HasPrefix(r.Key, q.Prefix) || bytes.Compare(r.Key, last) <= 0 || len(r.Key) > core.MaxKey || r.Version == (core.Version{}) || q.KeysOnly && len(r.Value) > 0 {
					t.Errorf("query %d: %q after %q", i, r.Key, last)
				}
				last = r.Key
			}
		}
	})
}

// Whatever a plugin says that it offers, what is taken of it can be asked for by name.
func FuzzOffers(f *testing.F) {
	seed(f, &wire.DescribeResponse{Offers: []*wire.Offer{
		{Part: wire.Part_PART_KEYSTORE}, {Part: wire.Part_PART_KEY_WRAPPER, Instance: "b", WrapperId: "id"},
		{Part: wire.Part_PART_CRYPTO_PROVIDER, Features: []wire.Feature{1, 2, 3, 77}},
	}}, &wire.DescribeResponse{Offers: []*wire.Offer{{Part: 5}, {Instance: "../x"}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m wire.DescribeResponse
		if proto.Unmarshal(b, &m) != nil || checkOffers(m.GetOffers()) != nil {
			return
		}
		p := &Plugin{cfg: Config{Name: "test"}, offers: m.GetOffers()}
		for i, o := range p.Offers() {
			var err error
			switch o.Part {
			case PartKeystore:
				_, err = p.Keystore(o.Instance)
			case PartCryptoProvider:
				var c core.CryptoProvider
				c, err = p.CryptoProvider(o.Instance)
				_, deletes := c.(core.KeyDeleter)
				_, imports := c.(core.KeyImporter)
				_, attests := c.(core.KeyAttester)
				if deletes != o.Deletes || imports != o.Imports || attests != o.Attests {
					t.Errorf("%v is a %T", o, c)
				}
			case PartIssuer:
				_, err = p.Issuer(o.Instance)
			case PartKeyWrapper:
				var w core.KeyWrapper
				if w, err = p.KeyWrapper(o.Instance); err == nil && (w.ID() != o.Wrapper || !isText(w.ID(), wire.MaxID)) {
					t.Errorf("%v has the ID %q", o, w.ID())
				}
			default:
				t.Errorf("a part that is none: %v", o)
			}
			if err != nil || o.Instance != "" && !wire.IsName(o.Instance) || i >= wire.MaxOffers {
				t.Errorf("offer %d, %v: %v", i, o, err)
			}
		}
		if !sameOffers(m.GetOffers(), m.GetOffers()) {
			t.Error("offers are not the same as themselves")
		}
	})
}

// Whatever key a plugin answers with, it is refused or one of the host's.
func FuzzKey(f *testing.F) {
	public := bytes.Repeat([]byte("p"), 32)
	seed(f, &wire.Key{Ref: "x", Algorithm: "Ed25519", Public: public, Ability: wire.Ability_ABILITY_SIGN},
		&wire.Key{Ref: "x", Algorithm: "X25519", Public: public, Ability: wire.Ability_ABILITY_AGREE, Material: []byte("m")},
		&wire.Key{Ref: "x\n", Algorithm: "K", Public: []byte("p"), Ability: 9})
	p := &Plugin{cfg: Config{Name: "test", Logger: slog.New(slog.DiscardHandler)}}
	c := &provider{p: p, prefix: "plugin:test//"}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m wire.Key
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		key, err := c.key("generate key", &m, core.KeySpec{})
		if err != nil {
			if key != nil || core.Kind(err) != core.ErrUnavailable {
				t.Errorf("%v, %v", key, err)
			}
			return
		}
		inner, err := c.theirs("open key", key.Ref())
		if err != nil || inner != m.GetRef() || len(key.Public()) > wire.MaxPublic || !isText(string(key.Ref()), wire.MaxID+len(c.prefix)) {
			t.Errorf("%q, %v", key.Ref(), err)
		}
		_, signs := key.(core.Signer)
		_, agrees := key.(core.Agreer)
		_, opens := key.(core.Decapsulator)
		_, soft := key.(core.SoftwareKey)
		if signs != (m.Ability == wire.Ability_ABILITY_SIGN) || agrees != (m.Ability == wire.Ability_ABILITY_AGREE) ||
			opens != (m.Ability == wire.Ability_ABILITY_DECAPSULATE) || soft != (len(m.Material) > 0) {
			t.Errorf("%v is a %T", m.Ability, key)
		}
	})
}

// Whatever a plugin prints first.
func FuzzGreeting(f *testing.F) {
	f.Add([]byte("1|1|unix|/tmp/s|grpc|"), 3)
	f.Add([]byte("1|-9223372036854775809|"), 1)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		var h head
		for rest := b; len(rest) > 0; {
			n := min(max(piece, 1), len(rest))
			if got, err := h.Write(rest[:n]); got != n || err != nil {
				t.Fatal(got, err)
			}
			rest = rest[n:]
		}
		whole := head{b: b[:min(len(b), len(h.b))]}
		v, ok := h.version()
		if w, okWhole := whole.version(); v != w || ok != okWhole || !bytes.HasPrefix(b, h.b) {
			t.Errorf("in pieces %d, %v; whole %d, %v", v, ok, w, okWhole)
		}
	})
}
