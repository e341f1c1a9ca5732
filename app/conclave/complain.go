// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/crl"
)

// hints say what a person can do about an error; the first that matches is meant.
var hints = []struct {
	err  error
	hint string
}{
	{messenger.ErrKept, "it goes out, once, with your next command in the conversation that reaches the delivery service"},
	{client.ErrPendingUnresolved, "a commit of yours was sent more than once and the service does not say what became of it; join the conversation again: conclave chat rejoin NAME"},
	{client.ErrLeafMoves, "members with Core Crypto 10.3 could go on without the others: ask a member to remove you and to add you again; if nobody has that: conclave recover --rejoin-all"},
	{client.ErrLeafGone, "you have left it, or were removed, since; to come back: conclave chat join ID; to delete it here: conclave chat leave ID"},
	{client.ErrNoExternalPub, "ask a member to remove you and to add you again"},
	{core.ErrRolledBack, "run conclave recover: it says what that means, and goes on only if you say so"},
	{client.ErrCommitLost, "others commit at the same time; nothing of yours is pending, try again"},
	{client.ErrConversationNotFound, "you are not in this conversation (any more); conclave chat list shows those that you are in"},
	{messenger.ErrNoConversation, "conclave chat list shows the conversations that you are in"},
	{messenger.ErrNoClient, "is the id right? Whom you add has to run conclave init with the same delivery service first; nobody was added"},
	{messenger.ErrSuite, "they can join with an identity of the conversation's suite, in another home: conclave --home FOLDER init ID --suite N; or create a conversation in which all have the same suite. Nobody was added"},
	{messenger.ErrNotRegistered, "make an identity first, or again if that did not come to its end: conclave init ID"},
	{messenger.ErrFull, "read the conversations that have unread messages: conclave chat list, conclave chat read NAME"},
	{messenger.ErrLeaving, "you have left it; another member's next command there completes that. To come back after that, be added again, or: conclave chat join ID"},
	{client.ErrNotInitialized, "make an identity first: conclave init ID"},
	{messenger.ErrCertified, "conclave identity enroll makes a fresh key and gets a certificate for it"},
	{messenger.ErrNobody, "say who issues yours: conclave identity enroll --issuer URI; or write issuer = into conclave.toml. See conclave identity --help"},
	{messenger.ErrOpen, "go on with it by leaving --handle and --name out, or begin anew with --restart"},
	{messenger.ErrPerson, "conclave identity status shows what waits for whom"},
	{errLogin, "run it again: it goes on with the same login; or begin anew: conclave identity enroll --restart"},
	{errLater, "run it again later: it goes on where it was"},
	{e2ei.ErrClientID, "with an ACME server of Wire ID is a client id of Wire, such as 4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"},
	{e2ei.ErrHandle, "say which is to be certified: --handle alice_wire --name \"Alice Smith\""},
	{e2ei.ErrNotReady, "say whom you trust first, by the certificate of a root CA: conclave identity trust add FILE; or conclave init ID --trust FILE"},
	{e2ei.ErrCertificate, "is it the PEM of certificates, and nothing else? Nothing was changed"},
	{crl.ErrNetwork, "an address in a certificate is no way into a network; if this one is yours, say so in conclave.toml: crl_networks = \"10.0.0.0/8\", or: conclave identity crl add URL FILE"},
	{e2ei.ErrCRLSignature, "only a list is taken that a CA signed whom you trust: conclave identity trust list; nothing was changed"},
	{e2ei.ErrCRLStale, "a newer one is there already, or it is out of date; nothing was changed"},
	{e2ei.ErrIdentity, "the CA has left the names out that the request has, or added some; with OpenSSL: openssl x509 -req -copy_extensions copyall"},
	{e2ei.ErrWrongKey, "is it the certificate for this request, and the first one in the file? Nothing was changed"},
	{e2ei.ErrExpired, "is the clock of this machine right? Else a newer certificate is needed"},
	{e2ei.ErrNotYetValid, "is the clock of this machine right? Else wait until it is valid"},
	{e2ei.ErrNoPath, "no CA that you trust vouches for it: conclave identity trust list; nothing was changed"},
	{client.ErrProteusNotInitialized, "make the identity for it: conclave proteus init; or bring that of an earlier client: conclave proteus migrate BOX"},
	{client.ErrPreKeyExists, "nothing was made; others may have the bundle of that one. Take a --first that is free, or leave it out; conclave proteus prekeys lists those that are left"},
	{client.ErrNoFreePreKey, "nothing was made; each id is for one prekey until that is used: conclave proteus prekeys lists them"},
	{proteus.ErrSessionNotFound, "nothing was changed; conclave proteus sessions lists those that there are. To open one: conclave proteus encrypt SESSION --prekey BUNDLE"},
	{proteus.ErrPreKeyNotFound, "the prekey by which this message opens a session was used already, by this message or by another, or was never of this home; have the other side open the session by a new one: conclave proteus prekeys 1"},
	{proteus.ErrRemoteIdentityChanged, "nothing was changed. Ask the other side whether that is their new device, and compare fingerprints: conclave proteus fingerprint SESSION shows the old one. If it is: conclave proteus sessions --delete SESSION, and decrypt this message again"},
	{proteus.ErrDuplicateMessage, "it was read already, and can be once only; nothing was changed"},
	{proteus.ErrOutdatedMessage, "it was read already, or is too old; nothing was changed"},
	{proteus.ErrTooDistantFuture, "more than a thousand messages before it are missing; if they do not come, have the other side open the session again by a prekey: conclave proteus prekeys 1"},
	{proteus.ErrInvalidMessage, "it is of a session that is not here, lost or of another home; nothing was changed. Is SESSION the right name? Else have the other side open it again by a prekey: conclave proteus prekeys 1"},
	{proteus.ErrInvalidSignature, "it was changed or cut on its way, or is for somebody else, or opens a session by a prekey that was used up and whose id another has now; nothing was changed. Have it sent again"},
	{proteus.ErrMalformed, "is it whole, and what it should be, a prekey or a message of Proteus? Nothing was changed"},
	{proteus.ErrBadKey, "no honest device has such a key; nothing was changed"},
	{proteus.ErrExhausted, "wait for a message of the other side, or open the session again by a prekey: conclave proteus encrypt SESSION --replace --prekey BUNDLE"},
	{mls.ErrPendingProposals, "proposals wait to be committed first, try again"},
	{modules.ErrNoKeyFile, noKey},
	{config.ErrNoTable, "conclave plugin verify PATH prints the table of a plugin, for the end of conclave.toml"},
	{seal.ErrMoved, "the client was moved to another database, and conclave.toml does not name that; if the move was interrupted: conclave keystore copy --to URI again"},
	{core.ErrWrongKey, "the database is sealed with another key; nothing was changed. If it is another client's, which shares the database: conclave init ID --tenant NAME"},
	{core.ErrUnknownOutcome, "it is not known whether that happened; nothing is lost, and your next command in the conversation finds out. If you are not sure: conclave chat info NAME"},
	{core.ErrUnavailable, "is the delivery service running, and its address right? Then run the command again"},
	{core.ErrDamaged, "the database is damaged; join the conversation again (conclave chat rejoin NAME), or make a new identity; conclave doctor looks at the rest"},
	{core.ErrConflict, "another process changed the same thing; try again"},
}

// A hinted error brings the hint that fits where it came up.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

// hintOf finds the hint that fits; "" if none does.
func hintOf(err error) string {
	if own := (hinted{}); errors.As(err, &own) {
		return own.hint
	}
	if e := (*core.ProviderError)(nil); errors.As(err, &e) && e.Provider == "pure" && e.Op == "open key" && errors.Is(err, core.ErrDenied) {
		return "this signature key is in a token or a plugin: crypto = in conclave.toml, or --crypto, has to be the URI of the token, and a plugin needs its table"
	} else if e != nil && e.Provider == "postgres" {
		switch {
		case errors.Is(err, core.ErrUnavailable):
			return "is the database server running, and its address in the URI of the keystore right? Then run the command again"
		case e.Op == "open" && (errors.Is(err, core.ErrDenied) || errors.Is(err, core.ErrNotFound)):
			return "the URI of the keystore names the host, user, database and sslmode, and the password is in ~/.pgpass; has the administrator set all of that up? See PostgreSQL in the README"
		}
	}
	if refusal := (*client.IssueRefusedError)(nil); errors.As(err, &refusal) {
		if refusal.Final {
			return "that has come to its end; mend what the issuer says, and begin anew with the same command"
		}
		return "run it again later: it begins anew, with the same key"
	}
	if h := issuerHint(err); h != "" {
		return h
	}
	if h := tokenHint(err); h != "" {
		return h
	}
	if h := pluginHint(err); h != "" {
		return h
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	return ""
}

// issuerHint is for what an issuer asks over the network.
func issuerHint(err error) string {
	e := (*core.ProviderError)(nil)
	if !errors.As(err, &e) || !errors.Is(err, core.ErrUnavailable) {
		return ""
	}
	switch e.Provider {
	case "acme":
		return "is the address of the ACME server in issuer = right, and do you trust who is there (roots=FILE in it)? Then run it again: it goes on where it was"
	case "backend":
		return "is the backend that the ACME server names running? Then run it again: it goes on where it was"
	case "crl":
		return "it is tried again by conclave identity check; if the list is at another place: conclave identity crl add URL FILE"
	}
	return ""
}

// ownCommand is one that has to do with a home.
var ownCommand = regexp.MustCompile(`\bconclave (chat|doctor|identity|init|keys|keystore|plugin (?:list|verify)|proteus|recover|hsm (?:list|unlatch))\b( --help)?`)

// here has the commands in a hint say which home is meant, if --home did.
func (p *program) here(hint string) string {
	if p.homeGiven == "" {
		return hint
	}
	return ownCommand.ReplaceAllStringFunc(hint, func(command string) string {
		if strings.HasSuffix(command, " --help") {
			return command
		}
		return strings.Replace(command, " ", " --home "+word(p.homeGiven)+" ", 1)
	})
}

// kindOf names what a program should do next.
func kindOf(err error) string {
	if k := core.Kind(err); k != nil {
		return k.Error()
	}
	return "failed"
}

// complain tells a person what went wrong and, on a line of its own, what to do.
func (p *program) complain(err error) {
	if errors.Is(err, errTold) {
		return // the lines above tell
	}
	text, kind, hint := err.Error(), kindOf(err), p.here(hintOf(err))
	if errors.Is(err, context.Canceled) {
		text, kind, hint = "interrupted; whatever was sent is on record, and your next command goes on from there", "interrupted", ""
	}
	if p.json {
		_ = writeJSON(p.err, struct {
			Error string       `json:"error"`
			Kind  string       `json:"kind"`
			Code  proteus.Code `json:"code,omitempty"`
			Hint  string       `json:"hint,omitempty"`
		}{text, kind, proteus.CodeOf(err), hint})
		return
	}
	p.notice("%s", plain(text))
	if hint != "" {
		p.notice("%s", hint)
	}
}

// errTold ends the program with exit code 1 after it has told all there is.
var errTold = errors.New("told")
