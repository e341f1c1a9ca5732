// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// A client id is "<uuid>:<device, hexadecimal>@<domain>". It is written with a device
// of 16 digits; there are peers that leave leading zeros out of the identity.
var clientIDForm = regexp.MustCompile(`^([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}):([0-9a-fA-F]{1,16})@(.+)$`)

// normalClientID is the form in which a client id is written; false if it is none.
func normalClientID(text string) (core.ClientID, bool) {
	m := clientIDForm.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	device := strings.Repeat("0", 16-len(m[2])) + m[2]
	return core.ClientID(strings.ToLower(m[1]+":"+device) + "@" + m[3]), true
}

func parseClientID(name, text string) (core.ClientID, error) {
	id, ok := normalClientID(text)
	if !ok {
		return "", bad("%s: want <uuid>:<16 hex digits>@<domain>", name)
	}
	return id, nil
}

// clientIDs are those of a request. There may be none.
func (r *request) clientIDs() (ids []core.ClientID, err error) {
	if r.ClientIDs == nil {
		return nil, bad("clientIds: list of client ids expected")
	}
	for _, text := range r.ClientIDs {
		id, err := parseClientID("clientIds", text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// newClientID is a random one. Its device does not begin with a zero.
func newClientID() core.ClientID {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[6], b[8], b[16] = b[6]&0x0f|0x40, b[8]&0x3f|0x80, b[16]|0x10
	h := hex.EncodeToString(b[:])
	return core.ClientID(fmt.Sprintf("%s-%s-%s-%s-%s:%s@conclave.example", h[:8], h[8:12], h[12:16], h[16:20], h[20:32], h[32:]))
}

// showClientID is a client id in a reply: text is absent if it has another form.
func showClientID(id core.ClientID) result {
	out := result{"raw": []byte(id), "rawText": string(id)}
	if text, ok := normalClientID(string(id)); ok {
		out["text"] = string(text)
	}
	return out
}

// sameClient says whether a client id of a request means a member.
func sameClient(asked, member core.ClientID) bool {
	normal, ok := normalClientID(string(member))
	return asked == member || ok && asked == normal
}
