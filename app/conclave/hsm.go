// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
)

func (p *program) hsm() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hsm",
		Short: "Look at PKCS#11 tokens, make keys in them, and test them",
		Long: `Look at PKCS#11 tokens (HSMs, smart cards), make keys in them, and test them.

A token is named by an RFC 7512 URI, which also says which module, a shared library of
the token's maker, and where the PIN is: pin-source=file:/PATH, env:NAME or fd:NUMBER.
The module's code runs in this program. A PIN that a token has refused is not tried again
from this home folder, or with the same folder in $CONCLAVE_LATCH.`,
		Example: `  conclave hsm list --module /usr/lib/softhsm/libsofthsm2.so
  conclave hsm probe 'pkcs11:token=acme?module-name=softhsm2&pin-source=file:/etc/acme/pin'`,
		Args: noCommand,
		RunE: p.group,
	}
	cmd.AddCommand(p.hsmList(), p.hsmProbe(), p.hsmGenerate(), p.hsmTest(), p.hsmUnlatch())
	for _, c := range cmd.Commands() {
		c.Annotations = only("home", "json", "verbose")
	}
	return cmd
}

// latch is the folder of the PINs that are not tried again.
func (p *program) latch() string { return modules.LatchFolder(config.Config{Folder: p.home}) }

// token runs f with the token of a URI.
func (p *program) token(ctx context.Context, uri string, f func(context.Context, *hsm.Token) error) (err error) {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return err
	}
	if !u.PINValue.IsZero() {
		p.notice("pin-value was on the command line, which other users of this machine see; better is pin-source=file:/PATH")
	}
	p.misspelt(u)
	t, err := hsm.Open(ctx, hsm.Config{URI: uri, Latch: p.latch()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return f(ctx, t)
}

func (p *program) hsmList() *cobra.Command {
	var module, args string
	cmd := &cobra.Command{
		Use:   "list --module MODULE",
		Short: "List the tokens of a module, with their URIs",
		Long: `List the tokens of a PKCS#11 module: the URI of each, what it is, how many sessions it
has, and what it says of its PIN. No PIN is needed. MODULE is its file, its name, such as
softhsm2, or a URI that has one of these.

To use a token, add to its URI where the PIN is: &pin-source=file:/PATH, or env:NAME, or
fd:NUMBER.`,
		Example: "  conclave hsm list --module softhsm2\n  conclave hsm list --module /usr/lib/softhsm/libsofthsm2.so",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := moduleFile(module)
			if err != nil {
				return err
			}
			list, err := hsm.Tokens(cmd.Context(), path, args)
			if err != nil {
				return err
			}
			latched, problem := hsm.Latched(p.latch())
			if problem != nil {
				p.notice("%s", plain(problem.Error()))
			}
			for _, t := range list {
				pin := t.PIN
				for _, l := range latched {
					if l.Token.Token == t.Label && l.Token.Serial == t.Serial {
						pin += "; one is latched here: " + l.String()
					}
				}
				sessions := "as many as wanted, or it does not say"
				if t.MaxSessions > 0 {
					sessions = fmt.Sprintf("at most %d", t.MaxSessions)
				}
				err := p.result(struct {
					URI          string `json:"uri"`
					Label        string `json:"label"`
					Serial       string `json:"serial"`
					Manufacturer string `json:"manufacturer"`
					Model        string `json:"model"`
					Firmware     string `json:"firmware"`
					MaxSessions  uint   `json:"max_sessions,omitempty"`
					PIN          string `json:"pin"`
				}{t.URI, t.Label, t.Serial, t.Manufacturer, t.Model, t.Firmware, t.MaxSessions, pin},
					"%s\n  uri       %s\n  what      %s %s, firmware %s, serial number %s\n  sessions  %s\n  PIN       %s\n",
					plain(t.Label), plain(t.URI), plain(t.Manufacturer), plain(t.Model), plain(t.Firmware), plain(t.Serial), sessions, plain(pin))
				if err != nil {
					return err
				}
			}
			if len(list) == 0 {
				p.notice("%s has no token that is initialised; the program of its maker makes one", path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&module, "module", "", "PKCS#11 module: its file, its name or a URI")
	cmd.Flags().StringVar(&args, "init-args", "", "what the module is initialised with; NSS wants that, as x-init-args in URIs")
	_ = cmd.MarkFlagRequired("module")
	return cmd
}

// moduleFile is the file of a module that is named by it, by its name, or by a URI.
func moduleFile(module string) (string, error) {
	if strings.HasPrefix(module, hsm.Scheme+":") {
		u, err := hsm.ParseURI(module)
		if err != nil {
			return "", err
		}
		return u.Module()
	}
	if _, err := os.Stat(module); errors.Is(err, fs.ErrNotExist) && filepath.Base(module) == module {
		return hsm.URI{ModuleName: module}.Module()
	}
	return filepath.Abs(module)
}

func (p *program) hsmUnlatch() *cobra.Command {
	return &cobra.Command{
		Use:   "unlatch [URI]",
		Short: "Let PINs be tried again that a token has refused, or may have",
		Long: `A PIN that a token has refused, or was given when a login was cut short, is latched: it
is not tried again from this home folder, because a token that refuses a few locks
itself. This forgets the latched PINs of a token, so that each is tried once more. Do
that only if you know that the PIN is right now.

With PINs of one token latched no URI is needed.`,
		Example: "  conclave hsm unlatch\n  conclave hsm unlatch pkcs11:token=acme",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			token := hsm.URI{}
			if len(args) == 1 {
				var err error
				if token, err = hsm.ParseURI(args[0]); err != nil {
					return err
				}
			}
			err := hsm.Unlatch(p.latch(), token)
			switch {
			case errors.Is(err, hsm.ErrInvalidInput) && len(args) == 0:
				return hint(err, "say which: conclave hsm unlatch URI")
			case errors.Is(err, core.ErrNotFound):
				return hint(err, "each home folder has its own, unless $CONCLAVE_LATCH names one for all; --home says which")
			case err != nil:
				return err
			}
			return p.result(deed{Done: "unlatched"}, "unlatched; the PIN is tried once more\n")
		},
	}
}

func (p *program) hsmGenerate() *cobra.Command {
	var kek, method, key, algorithm string
	cmd := &cobra.Command{
		Use:   "generate URI (--kek LABEL | --key LABEL --algorithm NAME)",
		Short: "Make a key in a token, and see that the token keeps it",
		Long: `Make a key in a token: with --kek the key that seals a database, with --key a key pair
for signatures, such as a CA's. The keys of a client are not made so: each is made when
it is needed.

The key is made so that it cannot leave the token. Then the token is asked for it: what
it answers is printed, with what it says of the key. A key that it gives out is an error.

How a KEK wraps is up to the token, unless --method says aes-gcm, aes-kw or aes-cbc-hmac.`,
		Example: `  conclave hsm generate 'pkcs11:token=acme?module-name=softhsm2&pin-source=env:PIN' --kek alice-kek
  conclave hsm generate 'pkcs11:token=acme?module-name=softhsm2&pin-source=env:PIN' --key ca --algorithm ECDSA-P256`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, known := algorithmOf(algorithm)
			switch {
			case kek == "" && key == "":
				return fmt.Errorf("the label of the key is empty: %w", core.ErrInvalid)
			case !known:
				return fmt.Errorf("no algorithm %q; there are %s: %w", algorithm, strings.Join(signatures, ", "), core.ErrInvalid)
			}
			return p.token(cmd.Context(), args[0], func(ctx context.Context, t *hsm.Token) error {
				if cmd.Flags().Changed("kek") {
					return p.generateKEK(ctx, t, args[0], kek, method)
				}
				return p.generateKey(ctx, t, args[0], key, a)
			})
		},
	}
	cmd.Flags().StringVar(&kek, "kek", "", "make a key that seals a database, of this label")
	cmd.Flags().StringVar(&method, "method", "", "how it wraps: aes-gcm, aes-kw or aes-cbc-hmac")
	cmd.Flags().StringVar(&key, "key", "", "make a key pair for signatures, of this label")
	cmd.Flags().StringVar(&algorithm, "algorithm", string(core.ECDSAP256), "of the key pair: "+strings.Join(signatures, ", "))
	cmd.MarkFlagsOneRequired("kek", "key")
	cmd.MarkFlagsMutuallyExclusive("kek", "key")
	cmd.MarkFlagsMutuallyExclusive("method", "key")
	cmd.MarkFlagsMutuallyExclusive("kek", "algorithm")
	return cmd
}

// signatures are the algorithms of signatures.
var signatures = []string{string(core.Ed25519), string(core.Ed448), string(core.ECDSAP256), string(core.ECDSAP384), string(core.ECDSAP521)}

func algorithmOf(name string) (core.KeyAlgorithm, bool) {
	i := slices.IndexFunc(signatures, func(s string) bool { return strings.EqualFold(s, name) })
	if i < 0 {
		return "", false
	}
	return core.KeyAlgorithm(signatures[i]), true
}

// A madeKey is what programs hear of a new key.
type madeKey struct {
	URI       string            `json:"uri"`
	Check     string            `json:"check_value,omitempty"`
	Public    string            `json:"public,omitempty"`     // hexadecimal
	PEM       string            `json:"public_pem,omitempty"` // of the SubjectPublicKeyInfo
	Algorithm core.KeyAlgorithm `json:"algorithm,omitempty"`
	ReadBack  readBack          `json:"read_back"`
}

// A readBack is what the token answered when it was asked for the key.
type readBack struct {
	Value            string `json:"value"`
	Sensitive        string `json:"sensitive,omitempty"`
	AlwaysSensitive  string `json:"always_sensitive,omitempty"`
	Extractable      string `json:"extractable,omitempty"`
	NeverExtractable string `json:"never_extractable,omitempty"`
	Local            string `json:"local,omitempty"`
}

func readBackOf(r hsm.ReadBack) readBack {
	return readBack{r.Value, r.Sensitive, r.AlwaysSensitive, r.Extractable, r.NeverExtractable, r.Local}
}

// words has the answers on a line of their own.
func words(r hsm.ReadBack) string { return strings.Replace(r.String(), "; ", "\n           ", 1) }

func (p *program) generateKEK(ctx context.Context, t *hsm.Token, uri, label, method string) error {
	if err := free(ctx, t, uri, label); err != nil {
		return err
	}
	made, err := t.GenerateKEK(ctx, label, method)
	if err != nil {
		return err
	}
	r, err := t.ReadBack(ctx, made)
	if err != nil {
		return err
	}
	w, err := t.Wrapper(ctx, made)
	if err != nil {
		return err
	}
	if made, err = opening(made, uri); err != nil {
		return err
	}
	return p.result(madeKey{URI: made, Check: w.ID(), ReadBack: readBackOf(r)},
		"key        %s\ncheck      %s\nread back  %s\nto use it  conclave init ID --kek %s\n", plain(made), w.ID(), words(r), plain(word(made)))
}

// opening is the URI of a key with what opens the token, but for a PIN that stands there.
func opening(key, token string) (string, error) {
	u, err := hsm.ParseURI(key)
	if err != nil {
		return "", err
	}
	from, err := hsm.ParseURI(token)
	u.ModulePath, u.ModuleName, u.PINSource, u.PINValue = from.ModulePath, from.ModuleName, from.PINSource, from.PINValue
	u.MaxSessions, u.InitArgs, u.FinalTry = from.MaxSessions, from.InitArgs, from.FinalTry
	return u.String(), err
}

func (p *program) generateKey(ctx context.Context, t *hsm.Token, uri, label string, algorithm core.KeyAlgorithm) error {
	if err := free(ctx, t, uri, label); err != nil {
		return err
	}
	spec := core.KeySpec{Algorithm: algorithm, Use: core.UseSign, Label: label}
	_, _ = rand.Read(spec.ID[:]) // never fails, see crypto/rand
	key, err := t.Provider().GenerateKey(ctx, spec)
	if err != nil {
		return err
	}
	r, err := t.ReadBack(ctx, string(key.Ref()))
	if err != nil {
		return errors.Join(err, t.Provider().DeleteKey(ctx, key.Ref()))
	}
	made, err := opening(string(key.Ref()), uri)
	if err != nil {
		return err
	}
	public, info := hex.EncodeToString(key.Public()), publicPEM(key)
	return p.result(madeKey{URI: made, Public: public, PEM: info, Algorithm: key.Algorithm(), ReadBack: readBackOf(r)},
		"key        %s\nalgorithm  %s\npublic     %s\nread back  %s\n%s", plain(made), key.Algorithm(), public, words(r), info)
}

// publicPEM is the SubjectPublicKeyInfo, as certificates have it; "" for Ed448, of which the
// standard library has none.
func publicPEM(key core.PrivateKey) string {
	var public any
	var err error
	switch key.Algorithm() {
	case core.Ed25519:
		public = ed25519.PublicKey(key.Public())
	case core.ECDSAP256:
		public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key.Public())
	case core.ECDSAP384:
		public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P384(), key.Public())
	case core.ECDSAP521:
		public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P521(), key.Public())
	default:
		return ""
	}
	if err != nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// free sees to it that no key has the label: it would not be clear which one is meant.
func free(ctx context.Context, t *hsm.Token, uri, label string) error {
	if err := modules.NoKey(uri); err != nil {
		return err
	}
	_, err := t.ReadBack(ctx, string(hsm.URI{Object: label}.Reference()))
	switch {
	case errors.Is(err, hsm.ErrKeyNotFound):
		return nil
	case err == nil || errors.Is(err, hsm.ErrKeyAmbiguous) || errors.Is(err, hsm.ErrUnsupported):
		return hint(fmt.Errorf("the token has a key %q already: %w", label, core.ErrConflict), "nothing was made; take another label")
	}
	return err
}
