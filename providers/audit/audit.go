// SPDX-License-Identifier: Apache-2.0

// Package audit writes a line for every use of a private key: each time a
// [core.CryptoProvider] makes, opens, imports, deletes or attests a key, each
// signature and each decryption, and each time a [core.KeyWrapper] wraps or unwraps
// the data key of a store. Start with [Keys] and [KeyWrapper], which stand in front
// of another provider or wrapper and change nothing else about it.
//
// A line is a record of level info with the message "audit" and one group:
//
//	"audit":{"operation":"sign","key":"pure:Ed25519/...","algorithm":"Ed25519",
//	         "signs":"FramedContentTBS","conversation":"9f86d081884c7d659a2f","outcome":"ok"}
//
// The operation is generate, open, import, delete, attest, sign, agree,
// decapsulate, wrap or unwrap. The outcome is "ok" or the kind of error, never its
// text. What is signed is named by its label in RFC 9420; the conversation, where
// that says which, is obfuscated as in every log: the same within a process, another in
// the next (see [core.ConversationID]).
//
// The package promises one line for each operation, after it, and that no line has
// a key, a message or a signature. It does not promise that the line was kept: that
// is for the logger, which has to be one whose handler takes level info. Keys of
// single epochs and messages, which core makes itself and drops again, are not here.
package audit

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// A journal is where the lines go.
type journal struct{ log *slog.Logger }

func (j journal) write(ctx context.Context, operation string, err error, attrs ...any) {
	attrs = append([]any{slog.String("operation", operation)}, attrs...)
	attrs = append(attrs, slog.String("outcome", outcome(err)))
	j.log.InfoContext(ctx, "audit", slog.Group("audit", attrs...))
}

// use writes a line about a key.
func (j journal) use(ctx context.Context, operation string, k core.PrivateKey, err error, attrs ...any) {
	j.write(ctx, operation, err, append([]any{slog.String("key", string(k.Ref())), slog.String("algorithm", string(k.Algorithm()))}, attrs...)...)
}

// outcome is the kind of an error: its text is the provider's, and might say more.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, kind := range []error{core.Kind(err), context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "failed"
}

// signs tells what a message to be signed is, as far as SignContent of RFC 9420
// section 5.1.2 says it: its label and, if it comes first, the group.
func signs(message []byte) (attrs []any) {
	const prefix = "MLS 1.0 "
	s := cryptobyte.String(message)
	var label, content cryptobyte.String
	if !vlbytes.Read(&s, &label) || len(label) < len(prefix) || string(label[:len(prefix)]) != prefix || !vlbytes.Read(&s, &content) {
		return nil
	}
	name := string(label[len(prefix):])
	switch name {
	case "FramedContentTBS", "GroupInfoTBS": // two numbers, then the group id
		var group cryptobyte.String
		if content.Skip(4) && vlbytes.Read(&content, &group) {
			attrs = append(attrs, slog.Any("conversation", core.ConversationID(group)))
		}
	case "LeafNodeTBS", "KeyPackageTBS":
	default:
		return nil
	}
	return append([]any{slog.String("signs", name)}, attrs...)
}

// KeyWrapper writes a line for each use of a wrapping key.
func KeyWrapper(w core.KeyWrapper, log *slog.Logger) core.KeyWrapper {
	return &wrapper{w, journal{log}}
}

type wrapper struct {
	core.KeyWrapper
	journal journal
}

func (w *wrapper) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	blob, err := w.KeyWrapper.Wrap(ctx, dek, aad)
	w.journal.write(ctx, "wrap", err, slog.String("key", w.ID()))
	return blob, err
}

func (w *wrapper) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	dek, err := w.KeyWrapper.Unwrap(ctx, blob, aad)
	w.journal.write(ctx, "unwrap", err, slog.String("key", w.ID()))
	return dek, err
}
