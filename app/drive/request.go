// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A request is a line of the input. Bytes are base64; those that are absent are nil.
// Fields that no command knows are passed over.
type request struct {
	ID       json.RawMessage `json:"id"`
	Command  string          `json:"cmd"`
	Instance string          `json:"inst"`

	Level        string         `json:"level"`
	ClientID     string         `json:"clientId"`
	ClientIDs    []string       `json:"clientIds"`
	Suite        core.SuiteID   `json:"ciphersuite"`
	Suites       []core.SuiteID `json:"ciphersuites"`
	DB           string         `json:"db"`
	DBKey        []byte         `json:"dbKey"`
	MLS          *bool          `json:"mls"`
	Proteus      bool           `json:"proteus"`
	N            *int           `json:"n"`
	Lifetime     *int64         `json:"lifetime"`
	Length       *int           `json:"length"`
	Conversation []byte         `json:"conversation"`
	KeyPackage   []byte         `json:"keyPackage"`
	KeyPackages  [][]byte       `json:"keyPackages"`
	Sender       []byte         `json:"externalSender"`
	GroupInfo    []byte         `json:"groupInfo"`
	Welcome      []byte         `json:"welcome"`
	Message      []byte         `json:"message"`
	Messages     [][]byte       `json:"messages"`
	Plaintext    []byte         `json:"plaintext"`
	Plaintexts   [][]byte       `json:"plaintexts"`
	Data         []byte         `json:"data"`
	Rollback     bool           `json:"rollback"`
	Session      string         `json:"session"`
	Sessions     []string       `json:"sessions"`
	PreKey       []byte         `json:"prekey"`
	PreKeyID     *int           `json:"prekeyId"`

	Transport struct {
		Kind   transportKind `json:"kind"`
		Reason string        `json:"reason"`
	} `json:"transport"`

	bundles   []bundle        // what the command has submitted
	histories []historySecret // of what it has submitted
}

// A badRequest is a mistake of whoever wrote the request.
type badRequest string

func (b badRequest) Error() string { return string(b) }

func bad(format string, args ...any) error { return badRequest(fmt.Sprintf(format, args...)) }

// parse reads a request. After an error it still has the id, if that could be read.
func parse(f frame) (*request, error) {
	r := &request{}
	if f.tooLong {
		return r, bad("a request of more than %d bytes", MaxRequest)
	}
	if err := json.Unmarshal(f.line, r); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			want := strings.ReplaceAll(wrong.Type.String(), "[]uint8", "base64 string")
			return r, bad("%s: %s, where there should be %s", wrong.Field, wrong.Value, want)
		}
		if name := unreadable(f.line); name != "" {
			return r, bad("%s: %v", name, err)
		}
		return r, bad("not a request: %v", err)
	}
	switch r.Transport.Kind {
	case "":
		r.Transport.Kind = accept
	case accept, reject, crash:
	default:
		return r, bad("transport: kind %q; there is accept, reject and crash", r.Transport.Kind)
	}
	if r.Instance == "" {
		r.Instance = "default"
	}
	return r, nil
}

// unreadable is the field of a request that cannot be read, such as one that is not
// base64; empty if it is not for a field.
func unreadable(line []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(line, &fields) != nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		one, err := json.Marshal(map[string]json.RawMessage{name: fields[name]})
		if err == nil && json.Unmarshal(one, &request{}) != nil {
			return name
		}
	}
	return ""
}

// conversation is the id that the request names.
func (r *request) conversation() (core.ConversationID, error) {
	id, err := need("conversation", r.Conversation)
	return core.ConversationID(id), err
}

// need has an argument be there.
func need(name string, value []byte) ([]byte, error) {
	if value == nil {
		return nil, bad("%s: base64 string expected", name)
	}
	return value, nil
}

// needAll has a list be there, with nothing missing in it. It may be empty.
func needAll(name string, list [][]byte) error {
	if list == nil || slices.ContainsFunc(list, func(b []byte) bool { return b == nil }) {
		return bad("%s: list of base64 strings expected", name)
	}
	return nil
}

// upTo reads a count that may be absent.
func upTo(name string, value *int, otherwise, limit int) (int, error) {
	switch {
	case value == nil:
		return otherwise, nil
	case *value < 0 || *value > limit:
		return 0, bad("%s: %d is not from 0 to %d", name, *value, limit)
	}
	return *value, nil
}

// with adds to a result what was submitted.
func (r *request) with(out result) result {
	if out == nil {
		out = result{}
	}
	if n := len(r.bundles); n > 0 {
		out["bundle"] = r.bundles[n-1]
		if n > 1 {
			out["bundles"] = r.bundles
		}
	}
	if len(r.histories) > 0 {
		out["historySecrets"] = r.histories
	}
	return out
}

// messageHeader is what an MLSMessage of a key package or a GroupInfo begins with.
func messageHeader(f mls.WireFormat) []byte {
	return []byte{byte(mls.MLS10 >> 8), byte(mls.MLS10), byte(f >> 8), byte(f)}
}

// keyPackages makes MLSMessages of bare key packages.
func (r *request) keyPackages() (list [][]byte, err error) {
	if err := needAll("keyPackages", r.KeyPackages); err != nil {
		return nil, err
	}
	for _, k := range r.KeyPackages {
		list = append(list, append(messageHeader(mls.WireKeyPackage), k...))
	}
	return list, nil
}

// bare takes the header of an MLSMessage off.
func bare(message []byte) []byte { return message[len(messageHeader(0)):] }

// groupInfo makes an MLSMessage of a GroupInfo that may be bare.
func (r *request) groupInfo() ([]byte, error) {
	if _, err := need("groupInfo", r.GroupInfo); err != nil {
		return nil, err
	}
	if m, err := mls.UnmarshalMLSMessage(r.GroupInfo); err == nil && m.GroupInfo != nil {
		return r.GroupInfo, nil
	}
	return append(messageHeader(mls.WireGroupInfo), r.GroupInfo...), nil
}
